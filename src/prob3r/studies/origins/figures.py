"""The figures of the study of where matches come from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import median
from prob3r.measures.heads import MEAN, correspondence_heads, head_matches
from prob3r.measures.statistics import medians
from prob3r.studies.framework.figures import COLOURS, LABELS, band
from prob3r.studies.origins.checkpoints import onset, pairs_seen
from prob3r.studies.origins.history import (
    CHECKPOINT,
    THOUSAND,
    History,
    by_block,
    in_order,
    rotation_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DARK = 0.6  # from this PCK@1 on, the colour is so dark that numbers on it are white


def draw_matches(axis: "Axes", table: pd.DataFrame, history: History) -> None:
    """Draw match accuracy along training."""
    curves = {
        "best head": ("model", False, COLOURS["cross_attn"], ".-"),
        "best block's mean of heads": ("model", True, COLOURS["easy"], ".-"),
        "best head, view 1 shuffled": ("shuffled", False, COLOURS["control"], ".--"),
    }
    for label, (source, mean, colour, style) in curves.items():
        rows = table[(table.role == CHECKPOINT) & ((table["head"] == MEAN) == mean)]
        best = [_best(head_matches(part, source)[1]) for part in in_order(rows)]
        middle, low, high = torch.tensor(best).T
        band(axis, history.seen.tolist(), middle, low, high, colour, label, style)
    _mark(axis, history)
    axis.set_ylabel("PCK@1 of cross-attention")
    axis.set_ylim(0, 1)


def _best(values: Float[Tensor, "n s"]) -> list[float]:
    """Return the largest of the columns' medians, with its interval."""
    found = torch.stack(medians(values))
    return found[:, int(found[0].nan_to_num(0).argmax())].tolist()


def draw_rotation(axis: "Axes", table: pd.DataFrame, history: History) -> None:
    """Draw the rotation error along training, of the model and of its control."""
    styles = {
        "model": ("output", "all", ".-"),
        "shuffled": ("output, view 1 shuffled", "hard", ".--"),
    }
    for source, (label, colour, style) in styles.items():
        parts = [rotation_of(part, source) for part in in_order(table[table.role == CHECKPOINT])]
        curve = medians(torch.stack(parts, 1))
        band(axis, history.seen.tolist(), *curve, COLOURS[colour], label, style)
    _mark(axis, history)
    axis.set_ylabel(LABELS["rotation_error"])
    axis.set_ylim(bottom=0)


def _mark(axis: "Axes", history: History) -> None:
    """Mark where heads appear and spread, and where the plateau ends."""
    events = {
        "heads appear": (history.blocks[0] >= 1, COLOURS["cross_attn"], ":"),
        "heads spread": (history.blocks[0] >= history.depth / 2, COLOURS["cross_attn"], "-."),
        "plateau broken": (history.broken[0], COLOURS["all"], "--"),
    }
    for row, (label, (state, colour, style)) in enumerate(events.items()):
        if not (place := onset(state, history.seen)).isnan():
            low, high = row / len(events), (row + 1) / len(events)  # apart, as they may coincide
            axis.axvline(float(place), low, high, color=colour, ls=style, label=label)
    axis.set_xlabel(f"pairs seen (thousands)\n{history.since}")


def draw_best_heads(axis: "Axes", table: pd.DataFrame) -> None:
    """Draw the best head of every block of every model, and the number of correspondence heads."""
    along = pairs_seen(table[table.role == CHECKPOINT].model.unique())
    others = list(table[table.role != CHECKPOINT].model.unique())
    names = [f"{seen / THOUSAND:.0f}" for seen in along.values()] + others
    parts = [table[table.model == name] for name in [*along, *others]]
    heads = [head_matches(part[part["head"] != MEAN]) for part in parts]
    best = torch.stack([by_block(place, median(values.T)).amax(-1) for place, values in heads], 1)
    image = axis.imshow(best.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for column, part in enumerate(parts):
        found = [block for block, _ in correspondence_heads(part)]
        for block, shade in enumerate(best[:, column].tolist()):
            colour = "white" if shade > _DARK else COLOURS["all"]
            number = str(found.count(block))
            axis.text(column, block, number, color=colour, ha="center", va="center", size=6)
    if along:
        axis.axvline(len(along) - 0.5, color="white", lw=3)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axis.set_yticks(range(len(best)))
    axis.set_xlabel("pairs seen (thousands), or model")
    axis.set_ylabel("decoder block")
    axis.set_title("number of correspondence heads")
    axis.figure.colorbar(image, ax=axis, label="PCK@1 of the best head")


def entries(axes: "Iterable[Axes]") -> tuple[list[Any], list[str]]:
    """Return handles and labels for a legend of several axes, with each label once."""
    named = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    return list(named.values()), list(named)
