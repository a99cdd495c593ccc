"""The figures of the study of the camera token."""

from typing import TYPE_CHECKING

import pandas as pd
import torch

from prob3r.geometry import Interval
from prob3r.measures.statistics import median_interval, medians, wide
from prob3r.measures.tokens import COUNT, MASS
from prob3r.studies.camera_token.contrasts import CAMERA, MODES, REGISTER, by_tokens
from prob3r.studies.cuts.effects import POINTMAP
from prob3r.studies.cuts.losses import (
    LOSS_LABELS,
    draw_losses,
    loss_interval,
    loss_metrics,
    with_losses,
)
from prob3r.studies.cuts.tokens import SWAP
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TO_DONOR, TO_OWN = "rotation to the other scene", "rotation to its own"
"""Angles between the cameras that a run states and those of runs without edits, in degrees."""


_COLOURS = {
    CAMERA: COLOURS["hard"],
    REGISTER: COLOURS["self_attn"],
    COUNT: COLOURS["control"],
    MASS: COLOURS["easy"],
}
_NAMES = {
    CAMERA: "camera token",
    REGISTER: "a register token",
    COUNT: "a random patch",
    MASS: "patches of as much attention",
}


def draw_token_cuts(table: pd.DataFrame) -> "Figure":
    """Return the cuts of the camera token with their controls, one panel for each metric."""
    colours = {_NAMES[name]: colour for name, colour in _COLOURS.items()}
    losses = {metric: _bars(table, metric) for metric in loss_metrics(table)}
    return draw_losses(losses, colours, "how the tokens are cut")


def draw_swaps(table: pd.DataFrame) -> "Figure":
    """Return how a swap in each block moves the stated pose, and what the points lose."""
    labels = {
        TO_DONOR: "stated rotation to that of\nthe other scene (degrees)",
        TO_OWN: "stated rotation to that\nwithout the swap (degrees)",
        POINTMAP: LOSS_LABELS[POINTMAP],
    }
    rows = table[table["mode"] == SWAP].sort_values("block")
    with figure(1, len(labels), PAGE, 2.3) as (drawn, axes):
        for axis, (metric, label) in zip(axes, labels.items(), strict=True):
            of = rows[rows.metric == metric]
            of = with_losses(of) if metric == POINTMAP else of.assign(value=of.value + of.clean)
            for name, colour in _COLOURS.items():
                blocks, values = wide(of[of.tokens == name], "block")
                if len(blocks):
                    band(axis, blocks, *medians(values), colour, _NAMES[name])
            if metric == TO_DONOR:
                apart = of.drop_duplicates("pair").clean
                axis.axhline(
                    median_interval(torch.tensor(apart.to_numpy())).value,
                    color=COLOURS["all"],
                    lw=0.6,
                    ls=":",
                    label="without a swap",
                )
            axis.set_xticks(sorted(set(of.block)))
            axis.set_xlabel("block of the swap")
            axis.set_ylabel(label)
        handles, names = axes[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=5)
    return drawn


def _bars(table: pd.DataFrame, metric: str) -> dict[str, dict[str, Interval]]:
    """Return the losses of a metric by mode, and by the name of the tokens in figures."""
    found = {mode: by_tokens(table, metric, mode) for mode in MODES}
    return {
        mode: {_NAMES[name]: loss_interval(losses, metric) for name, losses in of.items()}
        for mode, of in found.items()
        if of
    }
