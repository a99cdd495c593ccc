"""The figures of the study of sinks."""

from typing import TYPE_CHECKING

import pandas as pd
import torch

from prob3r.measures.statistics import median_interval
from prob3r.measures.tokens import CHOSEN, COUNT, CUTS, MASS
from prob3r.studies.cuts.effects import effect
from prob3r.studies.framework.figures import COLOURS
from prob3r.studies.sinks.contrasts import of_keys, removal_contrast
from prob3r.studies.sinks.measured import (
    BROADCAST,
    CHANGE,
    CONTROL,
    KINDS,
    MODES,
    NO_OP,
    NO_OP_NORM,
    NONE,
    NORM,
    OUTPUT_SHARE,
    RANK,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = {
    NO_OP: (COLOURS["easy"], "no-op sinks"),
    BROADCAST: (COLOURS["hard"], "broadcast sinks"),
    CONTROL: (COLOURS["control"], "random keys"),
    NONE: (COLOURS["control"], "no sinks"),
}


def draw_norms(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw the value norm of every sink and its share of its head's output."""
    for kind in (CONTROL, NO_OP, BROADCAST):
        norms, shares = (of_keys(table, metric, (kind,)) for metric in (NORM, OUTPUT_SHARE))
        if len(norms):
            colour, label = _LOOKS[kind]
            x = torch.tensor(norms.to_numpy(copy=True)).exp()
            axis.scatter(x, shares, s=9, color=colour, label=label)
    axis.axvline(NO_OP_NORM, color=COLOURS["all"], lw=0.6, ls=":")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_xlabel("value norm / median of the head")
    axis.set_ylabel("share of the head's output")
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    else:
        _empty(axis)


def draw_ranks(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw the effective rank of the output of every head, by its sinks."""
    place = 0
    names = []
    for kind in (NONE, NO_OP, BROADCAST):
        rows = table[(table.metric == RANK) & (table.kind == kind)]
        if rows.empty:
            continue
        ranks = rows.groupby(["sublayer", "block", "head"]).value.median()
        spread = torch.linspace(-0.25, 0.25, len(ranks)) if len(ranks) > 1 else [0.0]
        axis.scatter([place + float(x) for x in spread], ranks, s=9, color=_LOOKS[kind][0])
        names.append(_LOOKS[kind][1].replace(" ", "\n"))
        place += 1
    axis.set_xticks(range(place), names)
    axis.set_ylim(bottom=1)
    axis.set_xlabel("heads with")
    axis.set_ylabel("effective rank of the output")


def draw_removals(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw what removing each kind changes, beside its controls."""
    colours = {CHOSEN: COLOURS["hard"], COUNT: COLOURS["control"], MASS: COLOURS["all"]}
    labels = {CHOSEN: "sinks", COUNT: "as many random keys", MASS: "keys of equal mass"}
    names = list[str]()
    for kind in KINDS:
        for mode in MODES:
            if "mode" not in table or removal_contrast(table, kind, mode) is None:
                continue
            rows = table[(table.kind == kind) & (table["mode"] == mode)]
            for step, cut in enumerate(CUTS):
                found = median_interval(effect(rows, CHANGE, cut=cut))
                x = len(names) + 0.25 * (step - 1)
                bars = [[found.value - found.low], [found.high - found.value]]
                label = None if names else labels[cut]
                axis.bar(x, found.value, width=0.22, color=colours[cut], label=label)
                axis.errorbar(x, found.value, bars, color=COLOURS["easy"], lw=0.8)
            names.append(f"{kind}, {mode}")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_xlabel("sinks removed, and how")
    axis.set_ylabel("change of view 2's points\n(scene's unit)")
    if names:
        axis.set_ylim(top=1.45 * axis.get_ylim()[1])
        axis.legend(loc="upper left")
    else:
        _empty(axis)


def _empty(axis: "Axes") -> None:
    axis.text(0.5, 0.5, "no sinks", transform=axis.transAxes, ha="center")
