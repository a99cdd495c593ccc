"""Integrated gradients: effects whose gradients are means over a path.

One part at a time moves in a straight line from its own value to the baseline: what a sublayer
adds, the outputs of all heads of a sublayer, or a stream. Everything after the part is computed
anew at each step (Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017). With
more steps, the sum over a part's tokens comes closer to the exact effect. Each step of each part
takes one run and one gradient; a sweep takes only one run for each part.
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.models.protocol import Model
from prob3r.models.sites import HEADS, Site, Tap
from prob3r.runs.attribution.baselines import Baseline
from prob3r.runs.attribution.result import Attribution, Scalar
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import MEMORY
from prob3r.scenes.views import Views


def along_paths(
    model: Model,
    views: Views,
    scalar: Scalar,
    baseline: Baseline,
    kinds: Collection[str],
    wanted: frozenset[str],
    steps: int,
) -> Attribution:
    """Return the effects whose gradients are means over the paths of single sublayers."""
    changes = _Changes(baseline, kinds, wanted)
    replay = Replay(model, views)
    with torch.no_grad():
        model(*views.images, tap=changes)
    clean = replay.clean.output
    assert clean is not None  # a replay always has it
    measure = scalar(views, clean)
    effects: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    shares = (torch.arange(steps) + 0.5) / steps
    size = max(1, MEMORY // (4 * replay.bytes_per_variant))
    for (kind, name), (site, change) in changes.found.items():
        total = torch.zeros_like(change[..., 0])
        for part in shares.split(size):
            path = _Path(site, change, part)
            with torch.enable_grad():
                value = measure(replay.follow(path, [site], len(part)))
            start = path.start
            if value.requires_grad and start is not None:
                (gradient,) = torch.autograd.grad(value.sum(), start, allow_unused=True)
                if gradient is not None:
                    by_step = gradient.unflatten(0, (len(part), -1))
                    total += (by_step * change).sum(-1).sum(0)
        effects[kind][name] = total / steps
    return Attribution(measure(clean).detach(), baseline.words, steps, **effects)


class _Changes(Tap):
    """Records how a baseline changes every part.

    Attributes:
        found: By kind and name as in `Attribution`, the site and the change there.
    """

    def __init__(self, baseline: Baseline, kinds: Collection[str], wanted: frozenset[str]):
        self.baseline, self.kinds, self.wanted = baseline, kinds, wanted
        self.found: dict[tuple[str, str], tuple[str, Tensor]] = {}
        self._streams: dict[str, Tensor] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        place = Site.parse(site)
        before, self._streams[place.stream] = self._streams.get(place.stream), tensor
        if site in self.wanted:
            if "streams" in self.kinds:
                self._note("streams", site, site, tensor, self.baseline.stream(site, tensor))
            if "sublayers" in self.kinds and before is not None and place.adds:
                added = tensor - before
                self._note("sublayers", site, site, added, self.baseline.added(site, added))
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        place = Site.parse(site)
        if "heads" in self.kinds and str(place.residual) in self.wanted:
            name = str(place.read(HEADS))
            self._note("heads", name, site, output, self.baseline.heads(site, output))
        return output

    def _note(self, kind: str, name: str, site: str, own: Tensor, instead: Tensor | None) -> None:
        if instead is not None:
            self.found[kind, name] = site, instead.to(own.dtype) - own


class _Path(Tap):
    """Replaces one site's tensor by points of the straight line to the baseline.

    Attributes:
        start: The points of the line, step by step. Gradients are taken with respect to them.
    """

    differentiates = True

    def __init__(self, site: str, change: Tensor, shares: Float[Tensor, " s"]):
        self.site, self.change, self.shares = site, change, shares
        self.start: Tensor | None = None

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return self._moved(tensor) if site == self.site else tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        return self._moved(output) if site == self.site else output

    def _moved(self, own: Tensor) -> Tensor:
        moves = self.shares.to(own).view(-1, *[1] * self.change.ndim) * self.change
        self.start = (own + moves.flatten(0, 1)).detach().requires_grad_()
        return self.start
