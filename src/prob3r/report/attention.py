"""Cross-attention of both decoders: what is kept of it, and every head in one row of a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, nan

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import PatchMatches, cycle_consistency, pck
from prob3r.runs.trace import REDUCTIONS, Reduction, Trace

SINK_FACTOR = 8.0
"""A key that takes more than this many times its uniform share of a head's attention is a sink."""

NAMES = ("argmax", "entropy", "received", "strongest")
"""What is asked of every cross-attention; the mean of the heads stands behind them as one more."""


@dataclass(frozen=True)
class Head:
    """How one head of view 2's cross-attention, or the mean of a block's heads, looks at view 1.

    Attributes:
        block: Number of the block.
        head: Number of the head; None for the mean of the block's heads.
        entropy: Mean over queries, as a share of the most there can be: 1 is a uniform look.
        cycle_consistency: Share of view 2's patches that come back to within one patch by their
            most attended patch of view 1 and the mean look of view 1's decoder in this block.
        sinks: Number of sinks.
        sink_share: Share of the attention that falls on sinks.
        agreement: Share of co-visible patches whose most attended patch is within one of where
            the model's own final pointmaps put them; NaN where none is co-visible.
        true_matches: The same with the true matches; NaN where they are not known.
        rotation_effect: What switching the head off adds to the rotation error of view 2's pose,
            in degrees; NaN where that was not asked for.
        inner_shape_effect: The same for the inner-shape error.
    """

    block: int
    head: int | None
    entropy: float
    cycle_consistency: float
    sinks: int
    sink_share: float
    agreement: float
    true_matches: float
    rotation_effect: float = nan
    inner_shape_effect: float = nan

    @property
    def words(self) -> str:
        """The head in words, such as `head 3 of block 4`."""
        return f"{'the mean' if self.head is None else f'head {self.head}'} of block {self.block}"


@dataclass(frozen=True)
class Strongest:
    """The most attended keys of every query, block by block, in one direction.

    Attributes:
        keys: Their numbers, by head; the last head is the mean of all.
        probs: The attention on them.
    """

    keys: Int[Tensor, "blocks k n top"]
    probs: Float[Tensor, "blocks k n top"]


def reductions(top: int) -> Mapping[str, Reduction]:
    """Return what to ask of attention sites, with the mean of the heads as one head more.

    Args:
        top: Keys to keep of every query, for `strongest`, which gives numbers and probabilities
            side by side along the last axis.
    """
    strongest = Reduction(lambda probs: torch.cat(probs.topk(min(top, probs.shape[-1])), -1))
    asked = {**REDUCTIONS, "strongest": strongest}
    return {name: _with_mean(asked[name]) for name in NAMES}


def strongest(trace: Trace, view: int, blocks: int) -> Strongest:
    """Return the most attended keys of one view's queries, by falling attention."""
    records = [trace[f"dec{view}.{i}.cross_attn.strongest"] for i in range(blocks)]
    probs, keys = torch.cat([torch.Tensor(r) for r in records]).chunk(2, dim=-1)
    return Strongest(keys.long(), probs)


def heads_table(
    trace: Trace,
    blocks: int,
    grids: tuple[tuple[int, int], tuple[int, int]],
    final: PatchMatches,
    true: PatchMatches | None,
) -> list[Head]:
    """Return one row for every head of view 2's cross-attention, and one for each block's mean.

    Args:
        trace: Of one pair, with `NAMES` of both decoders' cross-attention.
        blocks: Number of decoder blocks.
        grids: Rows and columns of both views' patches.
        final: View 2's matches by the model's own final pointmaps.
        true: The true ones, if known.
    """
    rows = []
    for block in range(blocks):
        argmax, entropy, received = (
            trace[f"dec2.{block}.cross_attn.{name}"] for name in ("argmax", "entropy", "received")
        )
        back = trace[f"dec1.{block}.cross_attn.argmax"][:, -1:].expand(-1, argmax.shape[1], -1)
        cycle = cycle_consistency(argmax, back, grids[1])[0]
        keys = received.shape[-1]
        sinks = received[0] * keys > SINK_FACTOR
        share = (received[0] * sinks).sum(-1)
        near = pck(argmax, final.match, final.visible, grids[0])[0]
        hits = torch.full_like(near, torch.nan)
        if true is not None:
            hits = pck(argmax, true.match, true.visible, grids[0])[0]
        mean = len(near) - 1
        rows += [
            Head(
                block=block,
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


def chance(grid: tuple[int, int]) -> float:
    """Return the share of patches that a random look would put within one patch of any match."""
    rows, columns = grid
    share = 1.0
    for side in (rows, columns):
        share *= sum(min(i + 1, side - 1) - max(i - 1, 0) + 1 for i in range(side)) / side**2
    return share


def _with_mean(reduction: Reduction) -> Reduction:
    def reduce(probs: Float[Tensor, "b k q m"]) -> Tensor:
        return reduction.reduce(torch.cat([probs, probs.mean(1, keepdim=True)], dim=1))

    return Reduction(reduce, reduction.over_queries)
