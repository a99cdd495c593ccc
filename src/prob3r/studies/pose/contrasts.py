"""Comparison of the effects of knockouts with their two random controls."""

from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import median_interval, wide
from prob3r.measures.tokens import CHOSEN, COUNT, CUTS, MASS
from prob3r.studies.pose.knockouts import MASK


class Contrast(NamedTuple):
    """The effect of a cut on an error, and its excess over the controls.

    Attributes:
        effect: The effect of the cut.
        over_count: The effect less that of the control matched in count.
        over_mass: The effect less that of the control matched in attention mass.
        pairs: Number of pairs that have something to cut.
        tokens: Number of cut tokens, median over pairs, of the cut and of both controls.
        mass: Attention mass of these tokens, median over pairs, of the cut and of both controls.
    """

    effect: Interval
    over_count: Interval
    over_mass: Interval
    pairs: int
    tokens: tuple[float, ...]
    mass: tuple[float, ...]

    @property
    def stands_out(self) -> bool:
        """Whether the effect is above that of both controls, by intervals."""
        return self.over_count.low > 0 and self.over_mass.low > 0

    def by_more_than(self, degrees: float) -> bool:
        """Whether it stands out, and exceeds each control by more than `degrees` in the median."""
        return self.stands_out and min(self.over_count.value, self.over_mass.value) > degrees


def contrast(
    table: pd.DataFrame,
    source: str,
    scope: str,
    mode: str = MASK,
    metric: str = "rotation_error",
) -> Contrast | None:
    """Return the effect of a cut of a scope; None if no pair had anything to cut."""
    rows = rows_of(table, source, scope, mode, metric)
    if rows.empty:
        return None
    values = by_cut(rows)
    chosen = values[CHOSEN]
    tokens, mass = (
        tuple(float(rows[rows.cut == cut][column].median()) for cut in CUTS)
        for column in ("tokens", "mass")
    )
    return Contrast(
        median_interval(chosen),
        median_interval(chosen - values[COUNT]),
        median_interval(chosen - values[MASS]),
        len(chosen),
        tokens,
        mass,
    )


def rows_of(
    table: pd.DataFrame, source: str, scope: str, mode: str, metric: str = "rotation_error"
) -> pd.DataFrame:
    """Return the rows of a scope and a mode on one error."""
    chosen = (table.source == source) & (table.scope == scope) & (table["mode"] == mode)
    return table[chosen & (table.metric == metric)]


def by_cut(rows: pd.DataFrame) -> dict[str, Float[Tensor, " n"]]:
    """Return the effects of one variant, and of its controls, on the same pairs."""
    cuts, values = wide(rows, "cut")
    return dict(zip(cuts, values.unbind(1), strict=True))
