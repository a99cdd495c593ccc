"""Comparison of the cuts of the camera token with their controls."""

from collections.abc import Mapping

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.statistics import as_text, wide
from prob3r.studies.cuts.effects import modes_in
from prob3r.studies.cuts.losses import loss_interval, with_losses
from prob3r.studies.cuts.tokens import MASK, MEAN, RESAMPLE, ZERO

CAMERA, REGISTER = "camera", "register"
MODES = (MASK, ZERO, MEAN, RESAMPLE)


def by_tokens(table: pd.DataFrame, metric: str, mode: str) -> dict[str, Float[Tensor, " n"]]:
    """Return the loss of every scene by the cut of each kind of token, in one mode."""
    rows = with_losses(table[(table.metric == metric) & (table["mode"] == mode)])
    if rows.empty:
        return {}
    names, losses = wide(rows, "tokens")
    return dict(zip(names, losses.unbind(1), strict=True))


class Standing:
    """The loss by a cut of the camera token in one mode, and its excess over each control."""

    def __init__(self, table: pd.DataFrame, metric: str, mode: str):
        losses = by_tokens(table, metric, mode)
        own = losses.pop(CAMERA)
        self.loss, self.scenes = loss_interval(own, metric), len(own)
        self.over = {name: loss_interval(own - control, metric) for name, control in losses.items()}

    @property
    def out(self) -> bool:
        """Whether the cut costs more than each control, by intervals above zero."""
        return all(gap.low > 0 for gap in self.over.values())

    @property
    def less(self) -> bool:
        """Whether the cut costs less than some control, by an interval below zero."""
        return any(gap.high < 0 for gap in self.over.values())

    def __str__(self) -> str:
        gaps = ", ".join(f"over {name} {as_text(gap, 3)}" for name, gap in self.over.items())
        return f"{as_text(self.loss, 3)} ({gaps})"


def standings(table: pd.DataFrame, metric: str) -> dict[str, Standing]:
    """Return the comparison with the controls in every mode of a table."""
    return {mode: Standing(table, metric, mode) for mode in modes_in(table, MODES)}


def as_words(found: Mapping[str, Standing]) -> str:
    """Return the comparisons as text, for a finding."""
    return "; ".join(f"{mode} {standing}" for mode, standing in found.items())
