"""N6, matching heads: do a few heads match, and does cutting few of them break the model?

A head of the attention between views matches if the patch of view 1 that it attends to most is the
true match (PCK@1, `prob3r.measures.heads.head_pck`; mean over all further views). The matching
heads are the `SHARE` of all heads with the greatest median PCK@1 over the first `CHOSEN_ON` scenes,
one head at least. A head of global attention has one set of weights for all views and is cut in all
of them. A head of cross-attention belongs to the decoder of view 2 and is cut there.

The matching heads are cut. There are two controls: as many random heads among the others, averaged
over `DRAWS` draws; and as many of the other heads whose entropy is nearest to that of the matching
heads. Cutting all heads of the attention between views gives the total loss. Each cut is made in
the modes `zero`, `mean` (over the same first scenes) and `resample` (from another scene). The heads
are chosen by their PCK@1 and not by the effect of cutting them.

The cameras are judged by the rotation error (of the cameras that the model states, or else that
its pointmaps tell), the points by the pointmap error (`prob3r.measures.scenes`). Reported of VGGT
(arXiv 2512.11508): heads of layers 10 to 16 match, and switching off 4 heads of one layer degrades
it.

Rules, for medians over scenes with 95 % bootstrap intervals, for cameras and for points:

- *A few matching heads cause more than half of the total loss*: the loss by cutting the matching
  heads as a share of the loss by cutting all. In both modes `mean` and `resample`: supported if the
  share is above `HALF`, and the loss is above those of both controls, all by intervals; not
  supported if the share is below `HALF` by its interval, or the loss is not above that of the
  random heads; else mixed. If cutting all heads loses nothing, the share cannot be measured. With
  scenes from one place alone there is nothing to resample, and the verdict is mixed.
"""

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, median
from prob3r.measures.statistics import as_text, interval, median_interval, resampled
from prob3r.runs.edits import head_means
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views
from prob3r.studies.cuts.effects import POINTMAP, camera_metric, modes_in
from prob3r.studies.framework.figures import PAGE, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, not_measurable
from prob3r.studies.matching_heads.cuts import (
    ALL,
    ENTROPY,
    MATCHING,
    MODES,
    PCK,
    RANDOM,
    RankedHeads,
    by_heads,
    cut_rows,
    pck_rows,
    read_heads,
)
from prob3r.studies.matching_heads.figures import draw_head_cuts, draw_head_pck, draw_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF = 0.5  # share of the total loss
CHOSEN_ON = 32
RULING = ("mean", "resample")


class MatchingHeads(Study[Views]):
    """N6: the heads that match, and the effect of cutting a few of them."""

    name = "matching_heads"
    title = "A few heads match"
    prepared_on = 2 * CHOSEN_ON  # to rank the heads, and for their means
    place = 16
    views = 4
    batch = 4
    most = 128
    output = True
    attention = BETWEEN

    def __init__(self) -> None:
        self.known: RankedHeads | None = None

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Views]) -> None:
        """Find the heads that match most, their entropy, and the means of all heads' outputs."""
        model = tested.model
        device = next(model.parameters()).device
        few = list(sampled_batches(pairs, CHOSEN_ON, self.batch, device))
        heads, accuracies, entropies = zip(*(read_heads(model, v) for v in few), strict=True)
        middle = median(torch.cat(accuracies).T).nan_to_num(-1)
        order = middle.argsort(descending=True, stable=True).tolist()
        spread = torch.cat(entropies).mean(0).tolist()
        means = head_means(model, few)
        self.known = RankedHeads([heads[0][i] for i in order], [spread[i] for i in order], means)

    def measure(self, tested: ModelUnderTest, pair: Views) -> pd.DataFrame:
        """Return the PCK@1 of every head, and the effects of every cut."""
        assert self.known is not None  # `prepare` comes first
        return pd.concat(
            [
                pck_rows(tested.model, pair, self.known),
                cut_rows(tested.model, pair, self.known),
            ],
            ignore_index=True,
        )

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers for cameras and for points."""
        return [
            _breaks(table, camera_metric(table), "cameras"),
            _breaks(table, POINTMAP, "points"),
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the heads' PCK@1, and the effects of cutting heads on cameras and points."""
        metrics = camera_metric(table), POINTMAP
        with figure(1, 3, PAGE, 2.4) as (heads, axes):
            draw_head_pck(axes[0], table)
            for axis, metric in zip(axes[1:], metrics, strict=True):
                draw_steps(axis, table, metric)
            axes[1].legend()
        with figure(1, 2, PAGE, 2.4) as (cuts, axes):
            for axis, metric in zip(axes, metrics, strict=True):
                draw_head_cuts(axis, table, metric)
            handles, labels = axes[0].get_legend_handles_labels()
            cuts.legend(handles, labels, loc="outside lower center", ncols=4)
        return {"heads": heads, "cuts": cuts}


def share_of_loss(part: Float[Tensor, " n"], whole: Float[Tensor, " n"]) -> Interval:
    """Return the median of a loss as a share of the median of the whole loss, with its interval."""
    both = torch.stack([part, whole], 1)
    one, other = median(both.T)
    drawn = resampled(both)
    return interval(one / other, drawn[:, 0] / drawn[:, 1])


class Loss(NamedTuple):
    """The loss by cutting the matching heads in one mode.

    Attributes:
        share: The loss as a share of the total loss.
        own: The loss.
        over_random: The loss less that by random heads.
        over_entropy: The loss less that by heads of equal entropy.
        total: The loss by cutting all heads.
    """

    share: Interval
    own: Interval
    over_random: Interval
    over_entropy: Interval
    total: Interval


def _loss(table: pd.DataFrame, metric: str, mode: str) -> Loss | None:
    """Return the loss in a mode; None if cutting all heads loses nothing."""
    found = by_heads(table, metric, mode)
    total = median_interval(found[ALL])
    if not total.low > 0 or RANDOM not in found:
        return None
    own = found[MATCHING]
    return Loss(
        share_of_loss(own, found[ALL]),
        median_interval(own),
        median_interval(own - found[RANDOM]),
        median_interval(own - found[ENTROPY]),
        total,
    )


def _breaks(table: pd.DataFrame, metric: str, what: str) -> Finding:
    heads = table[table.metric == PCK].drop_duplicates(["block", "head"])
    few, count = int(heads.matching.sum()), len(heads)
    statement = (
        f"A few matching heads cause more than half of the total loss of the {what}: {few} of "
        f"{count} heads"
    )
    losses = {mode: _loss(table, metric, mode) for mode in modes_in(table, MODES)}
    ruling = {mode: losses[mode] for mode in RULING if mode in losses}
    main = losses[RULING[0]]
    known = [loss for loss in ruling.values() if loss is not None]
    scenes = int(table.pair.nunique())
    if main is None or len(known) < len(ruling):
        why = "cutting all heads between views loses nothing by its interval"
        return not_measurable("N6", statement, "share of the total loss", why, scenes)
    holds = [
        loss.share.low > HALF and loss.over_random.low > 0 and loss.over_entropy.low > 0
        for loss in known
    ]
    fails = [loss.share.high < HALF or loss.over_random.low <= 0 for loss in known]
    ruled = len(ruling) == len(RULING)
    words = "; ".join(
        f"{mode}: share {as_text(loss.share, 2, '-')}, over random heads "
        f"{as_text(loss.over_random, 3)}, over heads of equal entropy "
        f"{as_text(loss.over_entropy, 3)}, all heads {as_text(loss.total, 3)}"
        for mode, loss in losses.items()
        if loss is not None
    )
    if not ruled:
        words += "; no other scene to resample from"
    return Finding(
        "N6",
        statement,
        decide(ruled and all(holds), ruled and all(fails)),
        *main.share,
        unit=f"share of the total loss in the {metric.replace('_', ' ')}, mode mean",
        control=f"{words}; PCK@1 of the matching heads {_accuracy(table)}",
        pairs=scenes,
    )


def _accuracy(table: pd.DataFrame) -> str:
    rows = table[table.metric == PCK]
    matching = rows.matching.astype(bool)
    found, rest = (median_interval(_mean_pck(rows[mask])) for mask in (matching, ~matching))
    return f"{as_text(found, 3, '-')}, of the others {as_text(rest, 3, '-')}"


def _mean_pck(rows: pd.DataFrame) -> Float[Tensor, " n"]:
    return torch.tensor(rows.groupby("pair").value.mean().to_numpy(copy=True))
