"""N5, strangers: does a view that does not belong to its scene show inside?

Half of the scenes get a stranger: one view, never the first, is replaced by a view of another scene
(`prob3r.scenes.strangers`). In every block, three scores of each view except view 1 measure how
doubtful it is that the view belongs: the doubt by `attention` between views, by `mean features` and
by `best patches`, as defined in `prob3r.measures.belonging`. No score needs the truth. AUROC is how
often a stranger gets more doubt than a view that belongs, over the views of all scenes; intervals
are over scenes. *Last* is the last block with attention between views, and for features the end of
that block.

Controls: the same scores in a model of the same shape with random weights; the features at the
input of the trunk, where no view has seen another; and strangers that look alike, each the view of
all other scenes of the batch that is nearest in its colours to the one that it replaces.

RobustVGGT (arXiv 2512.04012) reports that in VGGT the last global block separates strangers best
from views that belong. It rejects views by attention and feature similarity in that block.

Rules, by 95 % bootstrap intervals over scenes:

- *A stranger shows in the attention of the last block*, and *in the features* (best patches):
  supported if its AUROC is above 0.5 and above that in the model of random weights, both intervals
  excluding equality; not supported if the first is not above 0.5; else mixed.
- *The blocks add to what the photographs' own features tell*: the AUROC of best patches at the last
  block less that at the trunk's input. Supported if above zero, not supported if below zero, both
  by an interval that excludes zero; else mixed.
- *Strangers stand out most in the last block*, by attention and by best patches: the AUROC of the
  last block less that of the best other block. Supported if above zero, not supported if below
  zero, both by an interval that excludes zero; else mixed.
- *A stranger that looks alike shows too*: supported if its AUROC in the last block is above 0.5 by
  attention and by best patches; not supported if by neither; else mixed.
"""

from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.geometry import Interval, percentiles
from prob3r.measures.belonging import (
    ATTENTION,
    BEST_PATCHES,
    INPUT,
    MEAN_FEATURES,
    SCORES,
    all_doubts,
    belonging,
)
from prob3r.measures.statistics import as_text, interval
from prob3r.models import Model, random
from prob3r.reliability.prediction import auroc, auroc_draws, auroc_interval
from prob3r.scenes.source import Scenes
from prob3r.scenes.strangers import Mixed, with_strangers
from prob3r.scenes.views import Views
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import MODEL, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, is_above_zero, not_measurable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANDOM, ALIKE = "random weights", "alike"
SOURCES = (MODEL, RANDOM, ALIKE)
"""Whose rows: the model's, those of random weights, and those of strangers that look alike."""

CHANCE = 0.5
WORDS = {
    ATTENTION: "attention between views",
    MEAN_FEATURES: "mean features",
    BEST_PATCHES: "best patches",
}
_LABELS = {
    MODEL: "a view of another scene",
    ALIKE: "one that looks alike",
    RANDOM: "random weights",
}
_LOOKS = {
    MODEL: (COLOURS["cross_attn"], "-"),
    ALIKE: (COLOURS["hard"], "--"),
    RANDOM: (COLOURS["control"], ":"),
}


class Strangers(Study[Views]):
    """N5: scores of every view by block, over scenes of which half have a stranger."""

    name = "strangers"
    title = "A view that does not belong shows inside"
    place = 15
    views = 4
    fewest = 3
    batch = 8
    most = 128
    attention = BETWEEN
    untrained: Model | None = None

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Views]) -> None:
        """Make the model of random weights, unless there is one."""
        device = next(tested.model.parameters()).device
        self.untrained = tested.untrained or random(tested.model).to(device)

    def measure(self, tested: ModelUnderTest, pair: Views) -> pd.DataFrame:
        """Return the doubt about every view but the first, by score and block."""
        mixed, alike = with_strangers(pair), with_strangers(pair, alike=True)
        parts = [_rows(tested.model, mixed, MODEL), _rows(tested.model, alike, ALIKE)]
        if self.untrained is not None:
            parts.append(_rows(self.untrained, mixed, RANDOM))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the questions of N5."""
        return [
            _shows(table, ATTENTION, "in the attention of"),
            _shows(table, BEST_PATCHES, "in the features after"),
            _blocks_add(table),
            *(_peaks(table, score) for score in (ATTENTION, BEST_PATCHES)),
            _alike(table),
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the AUROC of every score by block."""
        with figure(1, len(SCORES), PAGE, 2.4) as (drawn, axes):
            for axis, score in zip(axes, SCORES, strict=True):
                _draw(axis, table, score)
            axes[0].set_ylabel("AUROC, stranger or not")
            handles, labels = axes[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=3)
        return {"auroc": drawn}


def _rows(model: Model, mixed: Mixed, source: str) -> pd.DataFrame:
    found = all_doubts(belonging(model, mixed.views))
    rows, views = torch.meshgrid(
        torch.arange(len(mixed.views)), torch.arange(1, mixed.views.count), indexing="ij"
    )
    about = {
        "pair": rows.flatten().numpy(),
        "view": views.flatten().numpy() + 1,
        "stranger": mixed.stranger[:, 1:].flatten().numpy(),
        "source": source,
    }
    parts = [
        pd.DataFrame(
            about | {"score": score, "block": block, "value": values[:, 1:].flatten().numpy()}
        )
        for (score, block), values in found.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _known(
    table: pd.DataFrame, source: str, score: str, block: int
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the doubts of all views, which of them are strangers, and their scenes."""
    rows = table[(table.source == source) & (table.score == score) & (table.block == block)]
    rows = rows.sort_values(["pair", "view"])
    return (
        torch.tensor(rows.value.to_numpy(copy=True)).double(),
        torch.tensor(rows.stranger.to_numpy(dtype=bool)),
        torch.tensor(rows.pair.to_numpy(copy=True)).long(),
    )


def _gap(table: pd.DataFrame, one: tuple[str, str, int], other: tuple[str, str, int]) -> Interval:
    """Return the AUROC of one score less that of another, with its interval over scenes."""
    first, second = _known(table, *one), _known(table, *other)
    drawn = auroc_draws(*first) - auroc_draws(*second)
    return interval(auroc(*first[:2]) - auroc(*second[:2]), drawn)


def blocks_of(table: pd.DataFrame, score: str) -> list[int]:
    """Return the blocks in which a score was measured, in their order."""
    return sorted(int(block) for block in table[table.score == score].block.unique())


def _last(table: pd.DataFrame) -> int:
    return blocks_of(table, ATTENTION)[-1]


def _measurable(table: pd.DataFrame) -> bool:
    """Return whether there are views of both kinds."""
    return bool(table.stranger.any()) and not bool(table.stranger.all())


def _scenes(table: pd.DataFrame) -> int:
    return int(table.pair.nunique())


def _shows(table: pd.DataFrame, score: str, where: str) -> Finding:
    last, statement = _last(table), f"A stranger shows {where} the last block"
    if not _measurable(table):
        return _nothing(table, statement)
    found = auroc_interval(*_known(table, MODEL, score, last))
    more = _gap(table, (MODEL, score, last), (RANDOM, score, last))
    others = "" if score == ATTENTION else _mean_features(table, last)
    return Finding(
        "N5",
        f"{statement}, block {last}",
        decide(found.low > CHANCE and more.low > 0, found.low <= CHANCE),
        *found,
        unit=f"AUROC of {WORDS[score]}, 0.5 is chance",
        control=f"above random weights by {as_text(more, 3)}{others}",
        pairs=_scenes(table),
    )


def _mean_features(table: pd.DataFrame, last: int) -> str:
    found = auroc_interval(*_known(table, MODEL, MEAN_FEATURES, last))
    return f"; by mean features {as_text(found, 3, '-')}"


def _blocks_add(table: pd.DataFrame) -> Finding:
    last, statement = _last(table), "The blocks add to what the photographs' own features tell"
    if not _measurable(table):
        return _nothing(table, statement)
    gap = _gap(table, (MODEL, BEST_PATCHES, last), (MODEL, BEST_PATCHES, INPUT))
    before = auroc_interval(*_known(table, MODEL, BEST_PATCHES, INPUT))
    return Finding(
        "N5",
        statement,
        is_above_zero(gap),
        *gap,
        unit="AUROC of best patches, after the last block less before the first",
        control=f"before the first block {as_text(before, 3, '-')}",
        pairs=_scenes(table),
    )


def _peaks(table: pd.DataFrame, score: str) -> Finding:
    last, statement = _last(table), f"Strangers stand out most in the last block, by {WORDS[score]}"
    others = [block for block in blocks_of(table, score) if block not in (INPUT, last)]
    if not _measurable(table) or not others:
        return _nothing(table, statement)
    best = max(others, key=lambda block: float(auroc(*_known(table, MODEL, score, block)[:2])))
    gap = _gap(table, (MODEL, score, last), (MODEL, score, best))
    there = auroc_interval(*_known(table, MODEL, score, best))
    return Finding(
        "N5",
        statement,
        is_above_zero(gap),
        *gap,
        unit=f"AUROC, block {last} less block {best}, the best of the others",
        control=f"block {best}: {as_text(there, 3, '-')}",
        pairs=_scenes(table),
    )


def _alike(table: pd.DataFrame) -> Finding:
    last, statement = _last(table), "A stranger that looks alike shows too"
    if not _measurable(table):
        return _nothing(table, statement)
    shows = {
        score: auroc_interval(*_known(table, ALIKE, score, last))
        for score in (ATTENTION, BEST_PATCHES)
    }
    above = [found.low > CHANCE for found in shows.values()]
    less = _gap(table, (ALIKE, ATTENTION, last), (MODEL, ATTENTION, last))
    return Finding(
        "N5",
        statement,
        decide(all(above), not any(above)),
        *shows[ATTENTION],
        unit="AUROC of attention between views in the last block, 0.5 is chance",
        control=f"less that of any stranger {as_text(less, 3)}; by best patches "
        f"{as_text(shows[BEST_PATCHES], 3, '-')}",
        pairs=_scenes(table),
    )


def _nothing(table: pd.DataFrame, statement: str) -> Finding:
    why = "no strangers, or no other block, so that there is nothing to compare"
    return not_measurable("N5", statement, "AUROC", why, _scenes(table))


def _draw(axis: "Axes", table: pd.DataFrame, score: str) -> None:
    blocks = blocks_of(table, score)
    for source in SOURCES:
        found = [_known(table, source, score, block) for block in blocks]
        middle = torch.stack([auroc(*known[:2]) for known in found])
        low, high = percentiles(torch.stack([auroc_draws(*known) for known in found], 1))
        colour, style = _LOOKS[source]
        band(axis, blocks, middle, low, high, colour, _LABELS[source], style)
    axis.axhline(CHANCE, color=COLOURS["all"], lw=0.6)
    axis.set_ylim(0, 1.02)
    few = blocks[:: max(1, len(blocks) // 8)]
    axis.set_xticks(few, ["in" if block == INPUT else str(block) for block in few])
    axis.set_xlabel("block")
    axis.set_title(WORDS[score])
