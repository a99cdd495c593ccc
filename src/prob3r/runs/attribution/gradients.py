"""Attribution patching: the effect of every part of a model on a scalar, from one gradient.

A part's effect is its gradient times its change, `grad . (baseline - own)`. To first order, this is
how much the scalar changes when the part is replaced (Nanda, "Attribution patching", 2023; Syed et
al., "Attribution patching outperforms automated circuit discovery", 2023). One run, one gradient
and, for some baselines, one more run give the effects of all parts.

With `steps` the gradient is the mean over a path instead; see `prob3r.runs.attribution.paths`.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Model
from prob3r.models.sites import HEADS, PROBS, Site, Tap, attend_jointly, select
from prob3r.runs.attribution.baselines import Baseline, Zero
from prob3r.runs.attribution.memory import bounded, frozen
from prob3r.runs.attribution.paths import along_paths
from prob3r.runs.attribution.result import Attribution, Scalar
from prob3r.runs.edits import Setting
from prob3r.runs.edits.editor import attention_map
from prob3r.runs.trace import CHUNK_ELEMENTS
from prob3r.scenes.views import Views

KINDS = ("sublayers", "heads", "streams", "edges", "maps")
"""What can be attributed; see `Attribution`."""

EDGES = "edges"
"""The last part of a name of summed effects of edges: `dec2.3.cross_attn.edges`."""


def attribute(
    model: Model,
    views: Views,
    scalar: Scalar,
    baseline: Baseline | None = None,
    *,
    kinds: Collection[str] = ("sublayers", "heads"),
    sites: str | Sequence[str] = "*",
    steps: int = 1,
    bound_memory: bool = True,
) -> Attribution:
    """Return the first-order effect of every part of a model on a scalar.

    Args:
        model: The model. It is not changed.
        views: The scene, or the batch of scenes, with any number of views.
        scalar: The scalar that is explained, such as one of `prob3r.measures.scalars`.
        baseline: What replaces a part. The default is `Zero`.
        kinds: Some of `KINDS`.
        sites: Patterns of the residual sites whose sublayers and streams are attributed.
        steps: The number of points on the path of integrated gradients. 1 takes the gradient of
            the run itself.
        bound_memory: Whether to save memory: less of the run is kept for the gradient, at the cost
            of about one more run. See `prob3r.runs.attribution.memory`.

    Raises:
        Prob3rError: A kind is unknown, a pattern matches nothing, the baseline does not fit, or
            no gradient reaches the sites.
    """
    if steps < 1:
        raise Prob3rError(f"steps is {steps}; it must be at least 1.")
    if steps == 1:
        with one_run(
            model, views, baseline, kinds=kinds, sites=sites, bound_memory=bound_memory
        ) as attributed:
            return attributed(scalar, last=True)
    if _with_edges(kinds):
        raise Prob3rError("Edges have no path; take steps=1 for them.")
    wanted = frozenset(select(sites, model.sites(views.count)))
    bound = (baseline or Zero()).bind(model, views, edges=False)
    keep = bounded(model) if bound_memory else nullcontext()
    with frozen(model), keep:
        return along_paths(model, views, scalar, bound, kinds, wanted, steps)


class Attributed(Protocol):
    """A function that attributes scalars of one run. Each scalar takes one gradient."""

    def __call__(self, scalar: Scalar, *, last: bool = False) -> Attribution:
        """Return the first-order effects. After the `last` scalar, the run is freed."""


@contextmanager
def one_run(
    model: Model,
    views: Views,
    baseline: Baseline | None = None,
    *,
    kinds: Collection[str] = ("sublayers", "heads"),
    sites: str | Sequence[str] = "*",
    bound_memory: bool = True,
) -> Iterator[Attributed]:
    """Run a model once, and give a function that attributes any number of scalars of this run.

    Each scalar takes one gradient. With `bound_memory`, the blocks that the gradient reaches run
    once more for each scalar. Arguments and errors are those of `attribute`.
    """
    edges = _with_edges(kinds)
    wanted = frozenset(select(sites, model.sites(views.count)))
    bound = (baseline or Zero()).bind(model, views, edges)
    tap = Gradients(bound, Setting.of(model, views), kinds, wanted)

    with frozen(model), bounded(model) if bound_memory else nullcontext():
        with torch.enable_grad():
            output = model(*views.images, tap=tap)

        def attributed(scalar: Scalar, *, last: bool = False) -> Attribution:
            with torch.enable_grad():
                value = scalar(views, output.map(Tensor.detach))(output)
            if not (value.requires_grad and tap.reached):
                raise Prob3rError(
                    f"No gradient goes through this {type(model).__name__}; its forward must not "
                    "run under no_grad, and the scalar must be computed from its output."
                )
            value.sum().backward(retain_graph=not last)
            effects = tap.effects
            if not last:
                tap.clear()
            return Attribution(value.detach(), bound.words, 1, **effects)

        yield attributed


def _with_edges(kinds: Collection[str]) -> bool:
    """Return whether attention is asked for. Raise Prob3rError if a kind is unknown."""
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise Prob3rError(f"'{wrong[0]}' cannot be attributed; give some of {', '.join(KINDS)}.")
    return bool({"edges", "maps"} & {*kinds})


class Gradients(Tap):
    """Computes the effects of the parts of a run during its backward pass.

    The gradient ends at the first of these parts: nothing before them is differentiated. The effect
    of a part that no gradient reaches is zero.

    Args:
        baseline: The baseline, bound to the model and the batch.
        setting: The model and the batch.
        kinds: Some of `KINDS`.
        wanted: The residual sites whose sublayers and streams are attributed.

    Attributes:
        effects: The effects by kind and name, as in `Attribution`.
        reached: Whether a gradient can reach any part.
    """

    differentiates = True

    def __init__(
        self, baseline: Baseline, setting: Setting, kinds: Collection[str], wanted: frozenset[str]
    ):
        self.baseline, self.setting = baseline, setting
        self.kinds, self.wanted = kinds, wanted
        self.effects: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        self.reached = False
        self._streams: dict[str, Tensor] = {}
        self._seen: set[str] = set()

    def clear(self) -> None:
        """Set all effects to zero again, for another gradient."""
        self.effects = {
            kind: {name: torch.zeros_like(effect) for name, effect in effects.items()}
            for kind, effects in self.effects.items()
        }

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        """Return the stream as it is, and wait for its gradient."""
        shown = _started(tensor) if site in self.wanted else tensor
        if site in self._seen:  # a block that is checkpointed runs again
            return shown
        self._seen.add(site)
        place, own = Site.parse(site), tensor.detach()
        before, self._streams[place.stream] = self._streams.get(place.stream), own
        if site in self.wanted:
            added = None if before is None or not place.adds else own - before
            parts = {
                "streams": lambda: (own, self.baseline.stream(site, own)),
                "sublayers": lambda: (
                    (own, None) if added is None else (added, self.baseline.added(site, added))
                ),
            }
            for kind in parts.keys() & {*self.kinds}:
                self._wait(kind, site, shown, *parts[kind]())
        return shown

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the heads' outputs as they are, and wait for their gradient."""
        return self._heads(site, super().attend(site, queries, keys, values), queries, keys, values)

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the heads' outputs of joint attention as they are, and wait for their gradient."""
        outputs = attend_jointly(queries, keys, values)
        each = zip(sites, outputs, queries, strict=True)
        return [self._heads(site, output, own, keys, values) for site, output, own in each]

    def _heads(
        self, site: str, output: Tensor, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        place = Site.parse(site)
        if str(place.residual) not in self.wanted:
            return output
        shown = _started(output)
        if site in self._seen:
            return shown
        self._seen.add(site)
        if "heads" in self.kinds:
            own = output.detach()
            self._wait("heads", str(place.read(HEADS)), shown, own, self.baseline.heads(site, own))
        if self.baseline.has_maps and {"edges", "maps"} & {*self.kinds}:
            parts = [t.detach() for t in (queries, keys, values)]
            rows = queries.shape[2] if "maps" in self.kinds else 1
            self._keep_edges(place, queries.new_zeros(*queries.shape[:2], rows, keys.shape[2]))
            if shown.requires_grad:
                self.reached = True
                shown.register_hook(partial(self._edges, site, *parts))
        return shown

    def _wait(
        self, kind: str, name: str, shown: Tensor, own: Tensor, instead: Tensor | None
    ) -> None:
        if instead is None:
            return
        self.effects[kind][name] = own.new_zeros(own.shape[:-1])
        if shown.requires_grad:
            self.reached = True
            shown.register_hook(partial(self._effect, kind, name, instead.to(own.dtype) - own))

    def _effect(self, kind: str, name: str, change: Tensor, gradient: Tensor) -> None:
        self.effects[kind][name] = (gradient * change).sum(-1)

    def _edges(
        self, site: str, queries: Tensor, keys: Tensor, values: Tensor, gradient: Tensor
    ) -> None:
        """Keep the effects of a map: the gradient of a head's output, times its values."""
        b, k, n, _ = queries.shape
        size = max(1, CHUNK_ELEMENTS // (b * k * keys.shape[2]))
        parts = []
        for span in (slice(start, start + size) for start in range(0, n, size)):
            own = attention_map(queries[:, :, span], keys)
            change = self.baseline.probs(site, own, span) - own
            effect = (gradient[:, :, span] @ values.mT) * change
            parts.append(effect if "maps" in self.kinds else effect.sum(2, keepdim=True))
        self._keep_edges(Site.parse(site), torch.cat(parts, 2))

    def _keep_edges(self, place: Site, effects: Tensor) -> None:
        """Keep the effects of edges. They may be summed over queries if no map is asked for."""
        if "maps" in self.kinds:
            self.effects["maps"][str(place.read(PROBS))] = effects
        if "edges" in self.kinds:
            by_view = self.setting.keys(place).split(effects.sum(2))
            sums = torch.stack([part.sum(-1) for part in by_view.values()], -1)
            self.effects["edges"][str(place.read(EDGES))] = sums


def _started(tensor: Tensor) -> Tensor:
    """Return a tensor that a gradient reaches. It ends there if nothing before requires one.

    The result is a new tensor object, since several sites may share one.
    """
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
