"""N1, frame attention: do the early blocks need attention between the views?

In some blocks, every view is restricted to itself: in their attention between views, the keys of
the other views are masked (`Knockout`, mode `mask`). Global attention then becomes attention within
a view, with the weights of global attention. Cross-attention, as in DUSt3R and MASt3R, has no key
of the own view. Then it has no keys at all and adds nothing.

The first n blocks are restricted, for several n. The controls restrict as many blocks: the last
ones, and random ones (`DRAWS` random orders of the blocks, the same for all scenes; a scene's loss
is the mean over the orders). Losses of the cameras and of the points are those of
`prob3r.studies.cuts.losses`. The cameras are those that the model states, or else those that follow
from its points.

The rule looks at one number of blocks, `EARLY` of the depth (rounded, at least 1), which is 9 of
24, as AVGGT (arXiv 2512.02541) reported of VGGT. With 95 % bootstrap intervals over scenes, for the
cameras (AUC@30) and for the points (pointmap error), each on its own:

- *Early blocks do without attention between views*: supported if the upper end of the loss is under
  the tolerance (2 points of AUC@30, 5 % of pointmap error), and the last blocks and the random
  blocks each lose more, the intervals of the differences excluding zero; not supported if the lower
  end of the loss is over the tolerance, or if one of the two loses less, the interval excluding
  zero; else mixed. So a model that has nothing to lose, such as one of random weights, cannot
  support it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.statistics import as_text, wide
from prob3r.models import Model
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import BETWEEN_VIEWS
from prob3r.runs.edits import OWN_VIEW, Edit, Knockout
from prob3r.scenes.views import Views
from prob3r.studies.cuts.effects import POINTMAP, effects_of
from prob3r.studies.cuts.losses import (
    CAMERAS_HARDLY,
    LOSS_LABELS,
    LOSS_WORDS,
    POINTS_HARDLY,
    camera_auc,
    loss_curve,
    loss_interval,
    loss_metrics,
    with_losses,
)
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARLY = 3 / 8  # share of the depth: 9 of VGGT's 24 blocks
DRAWS = 3  # random orders of the blocks
SIZES = 12  # roughly the most numbers of blocks that are tried

FIRST, LAST, RANDOM = CHOICES = ("first", "last", "random")
"""Which blocks are restricted."""

_COLOURS = {FIRST: COLOURS["hard"], LAST: COLOURS["easy"], RANDOM: COLOURS["control"]}


class Restricted(NamedTuple):
    """The blocks that are restricted to the own view; `draw` is the number of a random order."""

    choice: str
    blocks: int
    draw: int = 0


class FrameAttention(Study[Views]):
    """N1: attention between views restricted to the own view, from the first block on."""

    name = "frame_attention"
    title = "Early blocks without attention between views"
    place = 11
    views = 4
    batch = 4
    most = 128
    output = True
    attention = BETWEEN

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        """Return the effect of every restriction on every error, by `effects_of`."""
        return effects_of(tested.model, scenes, restrictions(tested.model))

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers for the cameras and for the points."""
        return [
            _early(table, camera_auc(table), CAMERAS_HARDLY, "the cameras"),
            _early(table, POINTMAP, POINTS_HARDLY, "the points"),
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the losses over the number of restricted blocks."""
        metrics = loss_metrics(table)
        with figure(1, len(metrics), PAGE, 2.3) as (drawn, axes):
            for axis, metric in zip(axes, metrics, strict=True):
                for choice in CHOICES:
                    sizes, losses = by_size(table, metric, choice)
                    curve = loss_curve(losses, metric)
                    label = f"{choice} blocks"
                    band(axis, sizes, *curve, _COLOURS[choice], label)
                rule = early(max(sizes))
                axis.axvline(rule, color=COLOURS["all"], lw=0.6, ls=":", label="number in the rule")
                axis.axhline(0, color=COLOURS["all"], lw=0.6)
                axis.set_xlabel("blocks restricted\nto the own view")
                axis.set_ylabel(LOSS_LABELS[metric])
            handles, labels = axes[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=4)
        return {"losses": drawn}


def meeting(stack: Stack) -> dict[int, list[str]]:
    """Return the patterns of the attention between views of every block that has any."""
    found = {
        block: [f"{stack.name}*.{block}.{kind}" for kind in sublayers if kind in BETWEEN_VIEWS]
        for block, sublayers in enumerate(stack.sublayers)
    }
    return {block: patterns for block, patterns in found.items() if patterns}


def early(depth: int) -> int:
    """Return the number of early blocks by the rule, for a model of `depth` blocks."""
    return max(1, round(EARLY * depth))


def restrictions(model: Model) -> dict[Restricted, list[Edit]]:
    """Return the edits of every restriction; each choice also includes all blocks."""
    patterns = meeting(trunk(model))
    blocks = list(patterns)
    depth = len(blocks)
    sizes = sorted({*range(1, depth, math.ceil(depth / SIZES)), early(depth), depth})
    orders = {Restricted(FIRST, depth): blocks, Restricted(LAST, depth): blocks[::-1]}
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(depth, generator=generator).tolist()
        orders[Restricted(RANDOM, depth, draw)] = [blocks[place] for place in order]
    return {
        whole._replace(blocks=size): [
            Knockout(pattern, keys=~OWN_VIEW)
            for block in order[:size]
            for pattern in patterns[block]
        ]
        for whole, order in orders.items()
        for size in sizes
    }


def by_size(
    table: pd.DataFrame, metric: str, choice: str
) -> tuple[Sequence[int], Float[Tensor, "n s"]]:
    """Return the numbers of blocks in order, and every scene's loss with so many restricted."""
    rows = with_losses(table[(table.metric == metric) & (table.choice == choice)])
    means = rows.groupby(["blocks", "pair"]).value.mean().reset_index()
    return wide(means, "blocks")


def _early(table: pd.DataFrame, metric: str, hardly: float, what: str) -> Finding:
    sizes = by_size(table, metric, FIRST)[0]
    size, depth = early(max(sizes)), max(sizes)
    losses = {choice: by_size(table, metric, choice)[1][:, sizes.index(size)] for choice in CHOICES}
    loss = loss_interval(losses[FIRST], metric)
    gaps = {
        choice: loss_interval(losses[choice] - losses[FIRST], metric) for choice in (LAST, RANDOM)
    }
    verdict = decide(
        loss.high < hardly and all(gap.low > 0 for gap in gaps.values()),
        loss.low > hardly or any(gap.high < 0 for gap in gaps.values()),
    )
    controls = "; ".join(
        f"{choice} {size} lose {as_text(loss_interval(losses[choice], metric), 3)}, "
        f"less that of the first {as_text(gap, 3)}"
        for choice, gap in gaps.items()
    )
    return Finding(
        "N1",
        f"Early blocks do without attention between views: {what}",
        verdict,
        *loss,
        unit=f"{LOSS_WORDS[metric]}, the first {size} of {depth} blocks; under {hardly:g} is "
        "hardly a loss",
        control=controls,
        pairs=int((~losses[FIRST].isnan()).sum()),
    )
