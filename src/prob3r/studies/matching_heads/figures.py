"""The figures of the study of matching heads."""

from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from prob3r.measures.statistics import median_interval, medians, wide
from prob3r.studies.cuts.effects import POINTMAP, modes_in
from prob3r.studies.framework.figures import COLOURS, band
from prob3r.studies.matching_heads.cuts import (
    ALL,
    ANY,
    CUTS,
    ENTROPY,
    MATCHING,
    MODES,
    PCK,
    RANDOM,
    TOP,
    by_heads,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_head_pck(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw the PCK@1 of every head by block."""
    rows = table[table.metric == PCK]
    middle = rows.groupby(["block", "head", "matching"], as_index=False).value.median()
    for matching, colour, label in (
        (False, COLOURS["control"], "a head"),
        (True, COLOURS["cross_attn"], "a matching head"),
    ):
        chosen = middle[middle.matching == matching]
        axis.scatter(chosen.block, chosen.value, s=10, color=colour, label=label)
    axis.axhline(float(rows.chance.mean()), color=COLOURS["all"], lw=0.6, ls=":", label="chance")
    axis.set(xlabel="block", ylabel="PCK@1 between views", ylim=(0, 1.3))
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.legend()


def draw_steps(axis: "Axes", table: pd.DataFrame, metric: str) -> None:
    """Draw the change of an error over the number of heads that are cut."""
    colours = {TOP: COLOURS["cross_attn"], ANY: COLOURS["control"]}
    labels = {TOP: "those that match most", ANY: "random ones"}
    for cut, colour in colours.items():
        rows = table[(table.cut == cut) & (table.metric == metric)]
        counts, values = wide(rows.sort_values("heads"), "heads")
        band(axis, [int(count) for count in counts], *medians(values), colour, labels[cut])
    axis.axhline(0, color=COLOURS["all"], lw=0.6)
    axis.set_ylabel(_change_of(metric))
    axis.set_xscale("log", base=2)
    axis.set_xlabel("heads cut (mean ablation)")
    axis.set_xticks(counts, [f"{count:g}" for count in counts])


def draw_head_cuts(axis: "Axes", table: pd.DataFrame, metric: str) -> None:
    """Draw the change of an error by every cut in every mode."""
    colours = {
        MATCHING: COLOURS["cross_attn"],
        RANDOM: COLOURS["control"],
        ENTROPY: COLOURS["easy"],
        ALL: COLOURS["all"],
    }
    labels = {
        MATCHING: "matching heads",
        RANDOM: "random heads",
        ENTROPY: "heads of equal entropy",
        ALL: "all heads between views",
    }
    modes = modes_in(table, MODES)
    for place, mode in enumerate(modes):
        for step, (cut, values) in enumerate(
            sorted(by_heads(table, metric, mode).items(), key=_at)
        ):
            found = median_interval(values)
            x = place + 0.19 * (step - 1.5)
            bars = [[found.value - found.low], [found.high - found.value]]
            label = labels[cut] if place == 0 else None
            axis.bar(x, found.value, width=0.17, color=colours[cut], label=label)
            axis.errorbar(x, found.value, bars, color=COLOURS["hard"], lw=0.8)
    axis.axhline(0, color=COLOURS["all"], lw=0.6)
    axis.set_ylabel(_change_of(metric))
    axis.set_xticks(range(len(modes)), modes)
    axis.set_xlabel("mode of the ablation")


def _change_of(metric: str) -> str:
    points = metric == POINTMAP
    return "change of pointmap error" if points else "change of rotation error\n(degrees)"


def _at(item: tuple[str, Tensor]) -> int:
    return CUTS.index(item[0])
