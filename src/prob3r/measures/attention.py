"""Attention between views: the strongest keys of each query, and one table row for every head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, nan

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import PatchMatches, cycle_consistency, patch_grid, pck
from prob3r.measures.features import best_cosines, streams_at
from prob3r.measures.tokens import is_sink
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.trace import REDUCTIONS, Reduction, Trace
from prob3r.scenes import Views

KEPT = 2_000_000
"""The most keys that are kept in all, over queries, heads, blocks and views."""

NAMES = ("entropy", "mean_entropy", "mean_peak", "mass", "strongest", "by_view")
"""The readings that are recorded of every attention between views."""


PEAKS: Mapping[str, Reduction] = {
    **REDUCTIONS,
    "peak": Reduction(lambda probs: probs.argmax(-1, keepdim=True), by_view=True),
    "mean_peak": Reduction(
        lambda probs: probs.mean(1, keepdim=True).argmax(-1, keepdim=True), by_view=True
    ),
}
"""The usual reductions, and the most attended patch of each view: `(b, k, q, views)`.

`peak` is that of each head, `mean_peak` that of the mean of the heads.
"""


BY_VIEW = Reduction(lambda probs: probs.sum(-1, keepdim=True), by_view=True)
"""Each query's attention on the patches of each view, `(b, k, q, views)`."""


@dataclass(frozen=True)
class HeadStatistics:
    """How one head of a view, or the mean of a block's heads, attends to view 1.

    Attributes:
        view: Number of the view.
        block: Number of the block.
        head: Number of the head; None for the mean of the block's heads.
        entropy: Mean over queries, as a share of its largest value: 1 is uniform attention.
        cycle_consistency: Share of the view's patches that return to within one patch of
            themselves: by this head to their most attended patch of view 1, and from there by the
            mean of view 1's heads in this block.
        sinks: Number of sinks.
        sink_share: Share of the attention that falls on sinks.
        agreement: Share of co-visible patches whose most attended patch is within one patch of
            their match by the model's own final pointmaps; NaN where none is co-visible.
        true_matches: The same with the true matches; NaN where they are not known.
        rotation_effect: The rise of the rotation error of the view's pose when the head is switched
            off, in degrees; NaN where it was not requested.
        shape_effect: The same for the shape error after Sim(3).
    """

    view: int
    block: int
    head: int | None
    entropy: float
    cycle_consistency: float
    sinks: int
    sink_share: float
    agreement: float
    true_matches: float
    rotation_effect: float = nan
    shape_effect: float = nan

    @property
    def words(self) -> str:
        """The head in words, such as `head 3 of block 4`."""
        return f"{'the mean' if self.head is None else f'head {self.head}'} of block {self.block}"


@dataclass(frozen=True)
class Strongest:
    """The most attended patches of one view, for every patch of another, block by block.

    Attributes:
        keys: Their numbers, by head; the last head is the mean of all.
        probs: The attention on them.
    """

    keys: Int[Tensor, "blocks k n top"]
    probs: Float[Tensor, "blocks k n top"]


class AttentionRecords:
    """What to record of a model's attention between views, and how to read it.

    Args:
        model: The model.
        views: One scene.

    Attributes:
        places: The sublayers of view 1 with attention between views, block by block.
    """

    def __init__(self, model: Model, views: Views):
        stack = trunk(model)
        self.places = stack.between(1)
        self._views, self._stack = views.count, stack
        last = self.places[-1].block
        self._end = next(site for site in stack.ends(1) if site.block == last)
        self._grids = [patch_grid(*view.size, model.config.patch) for view in views.views]
        queries = sum(self._patches(view) for view in range(1, views.count + 1))
        rows = queries * len(self.places) * (stack.heads + 1) * (views.count - 1)
        self._top = max(1, KEPT // rows)

    @property
    def reductions(self) -> Mapping[str, Reduction]:
        """The reductions under `NAMES`; `strongest` has the mean of the heads as one more head."""
        entropy = REDUCTIONS["entropy"].reduce

        def strongest(probs: Float[Tensor, "b k q m"]) -> Tensor:
            every = torch.cat([probs, probs.mean(1, keepdim=True)], dim=1)
            return torch.cat(every.topk(min(self._top, every.shape[-1])), -1)

        return {
            **PEAKS,
            "mean_entropy": Reduction(lambda probs: entropy(probs.mean(1, keepdim=True))),
            "strongest": Reduction(strongest, by_view=True),
            "by_view": BY_VIEW,
        }

    def sites(self, names: Sequence[str] = NAMES) -> list[str]:
        """Return the attention sites to record, and the streams that `similarity` reads."""
        views = range(1, self._views + 1)
        ends = [str(self._end.of(v)) for v in views]
        return [
            str(p.of(v).read(name)) for name in names for v in views for p in self.places
        ] + ends

    def strongest(self, run: Trace) -> dict[tuple[int, int], Strongest]:
        """Return the patches that every view's patches attend to most in every other view."""
        found: dict[tuple[int, int], list[Tensor]] = {}
        for place in self.places:
            for view in range(1, self._views + 1):
                seen = place.of(view).key_views(self._views)
                kept = patch_queries(run, place.of(view).read("strongest"))
                sizes = [2 * min(self._top, self._patches(other)) for other in seen]
                for other, part in zip(seen, kept.split(sizes, -1), strict=True):
                    if other != view:
                        found.setdefault((view, other), []).append(part)
        return {between: _strongest(parts) for between, parts in sorted(found.items())}

    def by_view(self, run: Trace) -> Float[Tensor, "blocks v v"]:
        """Return the share of each view's attention on each view's patches, block by block.

        It is the mean over the heads and over the patches of the attending view; 0 for a view that
        is not among the keys.
        """
        shares = [by_view(run, place, self._views)[0] for place in self.places]
        return torch.stack(shares).float().cpu()

    def similarity(self, run: Trace) -> Float[Tensor, "v v"]:
        """Return the mean cosine of each view's patches with the most similar ones of each view.

        Features are those at the end of the last block with attention between views.
        """
        return best_cosines(streams_at(run, self._end, self._views))[0].cpu()

    def heads(
        self,
        run: Trace,
        strongest: Mapping[tuple[int, int], Strongest],
        view: int,
        final: PatchMatches,
        true: PatchMatches | None,
    ) -> list[HeadStatistics]:
        """Return one row for every head of a view's attention, and one for each block's mean.

        Args:
            run: A run with `sites` recorded.
            strongest: The most attended patches of this run.
            view: Number of the view, at least 2.
            final: Its matches in view 1 by the model's own final pointmaps.
            true: Its true matches, if known.
        """
        rows = []
        for i, place in enumerate(self.places):
            own = place.of(view)
            argmax = strongest[view, 1].keys[i, :, :, 0][None]
            back = strongest[1, view].keys[i, -1:, :, 0][None].expand(-1, argmax.shape[1], -1)
            cycle = cycle_consistency(argmax, back, self._grids[view - 1])[0]
            names = ("entropy", "mean_entropy")
            entropy = torch.cat([patch_queries(run, own.read(n)) for n in names], 1)
            mass = torch.Tensor(run[str(own.read("mass"))])
            mass = torch.cat([mass, mass.mean(1, keepdim=True)], 1)
            keys = mass.shape[-1]
            sinks = is_sink(mass[0])
            share = (mass[0] * sinks).sum(-1)
            near = pck(argmax, final.match, final.visible, self._grids[0])[0]
            hits = torch.full_like(near, torch.nan)
            if true is not None:
                hits = pck(argmax, true.match, true.visible, self._grids[0])[0]
            assert place.block is not None
            mean = len(near) - 1
            rows += [
                HeadStatistics(
                    view=view,
                    block=place.block,
                    head=None if k == mean else k,
                    entropy=float(entropy[0, k].mean() / log(keys)) if keys > 1 else 0.0,
                    cycle_consistency=float(cycle[k]),
                    sinks=int(sinks[k].sum()),
                    sink_share=float(share[k]),
                    agreement=float(near[k]),
                    true_matches=float(hits[k]),
                )
                for k in range(len(near))
            ]
        return rows

    def _patches(self, view: int) -> int:
        rows, columns = self._grids[view - 1]
        return rows * columns


def peaks(run: Trace, site: Site, view: int, views: int = 2) -> Int[Tensor, "b k n"]:
    """Return the patch of another view that each patch of a site's own view attends to most.

    Args:
        run: A run with `site` recorded by the reductions `PEAKS`.
        site: An attention site that reads `peak` or `mean_peak`.
        view: Number of the other view.
        views: How many views there are.
    """
    return patch_queries(run, site)[..., site.key_views(views).index(view)]


def by_view(run: Trace, place: Site, views: int) -> Float[Tensor, "b v v"]:
    """Return the share of each view's attention that falls on the patches of each view.

    It is the mean over the heads and over the patches of the attending view; 0 for a view that is
    not among the keys.

    Args:
        run: A run with the reading `by_view` of every view recorded by `BY_VIEW`.
        place: A sublayer of view 1 with attention between views.
        views: How many views there are.
    """
    rows = []
    for view in range(1, views + 1):
        own = place.of(view)
        mass = patch_queries(run, own.read("by_view")).mean((1, 2))
        row = mass.new_zeros(len(mass), views)
        row[:, [other - 1 for other in own.key_views(views)]] = mass
        rows.append(row)
    return torch.stack(rows, 1)


def patch_queries(run: Trace, site: Site) -> Tensor:
    """Return a record of an attention site `(b, k, q, ...)` without queries of special tokens."""
    record = run[str(site)]
    return torch.Tensor(record)[:, :, record.tokens.patches(record.shape[2])]


def chance(grid: tuple[int, int]) -> float:
    """Return the share of patches that random attention puts within one patch of their match."""
    rows, columns = grid
    share = 1.0
    for side in (rows, columns):
        share *= sum(min(i + 1, side - 1) - max(i - 1, 0) + 1 for i in range(side)) / side**2
    return share


def _strongest(parts: Sequence[Tensor]) -> Strongest:
    probs, keys = torch.cat(list(parts)).chunk(2, dim=-1)
    return Strongest(keys.long(), probs)
