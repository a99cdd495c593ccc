"""How the effects of knockouts are read: each cut beside its two random controls."""

from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import median_interval, wide
from prob3r.measures.tokens import CHOSEN, COUNT, CUTS, MASS
from prob3r.studies.pose.knockouts import MASK


class Contrast(NamedTuple):
    """What a cut does to the rotation, and how much more than its controls.

    Attributes:
        effect: Of the cut.
        over_count: Less that of the control matched in count.
        over_mass: Less that of the control matched in attention mass.
        pairs: That have something to cut.
        tokens: That are cut, median over pairs: of the cut and of both controls.
        mass: The attention that they hold, likewise.
    """

    effect: Interval
    over_count: Interval
    over_mass: Interval
    pairs: int
    tokens: tuple[float, ...]
    mass: tuple[float, ...]

    @property
    def stands_out(self) -> bool:
        """Whether it does more than both controls."""
        return self.over_count.low > 0 and self.over_mass.low > 0

    def by_more_than(self, degrees: float) -> bool:
        """Whether it stands out by more than so much over each of them."""
        return self.stands_out and min(self.over_count.value, self.over_mass.value) > degrees


def contrast(
    table: pd.DataFrame,
    source: str,
    scope: str,
    mode: str = MASK,
    metric: str = "rotation_error",
) -> Contrast | None:
    """Return what a cut of a scope does; None where there was nothing to cut."""
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
    """Return what the variants of a scope and a mode do to an error."""
    chosen = (table.source == source) & (table.scope == scope) & (table["mode"] == mode)
    return table[chosen & (table.metric == metric)]


def by_cut(rows: pd.DataFrame) -> dict[str, Float[Tensor, " n"]]:
    """Return the effects of one variant, and of its controls, on the same pairs."""
    cuts, values = wide(rows, "cut")
    return dict(zip(cuts, values.unbind(1), strict=True))
