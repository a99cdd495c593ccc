"""Comparison of the effects of knockouts with their two random controls."""

from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.statistics import wide
from prob3r.measures.tokens import CHOSEN, CUTS
from prob3r.studies.cuts.contrasts import Contrast
from prob3r.studies.pose.knockouts import MASK


class WeighedContrast(NamedTuple):
    """The contrast of a cut with its controls, and how much was cut.

    Attributes:
        contrast: The effect of the cut, and its excess over the controls.
        pairs: Number of pairs that have something to cut.
        tokens: Number of cut tokens, median over pairs, of the cut and of both controls.
        mass: Attention mass of these tokens, median over pairs, of the cut and of both controls.
    """

    contrast: Contrast
    pairs: int
    tokens: tuple[float, ...]
    mass: tuple[float, ...]


def weighed_contrast(
    table: pd.DataFrame,
    source: str,
    scope: str,
    mode: str = MASK,
    metric: str = "rotation_error",
) -> WeighedContrast | None:
    """Return the effect of a cut of a scope; None if no pair had anything to cut."""
    rows = rows_of(table, source, scope, mode, metric)
    if rows.empty:
        return None
    tokens, mass = (
        tuple(float(rows[rows.cut == cut][column].median()) for cut in CUTS)
        for column in ("tokens", "mass")
    )
    values = by_cut(rows)
    return WeighedContrast(Contrast.of(values), len(values[CHOSEN]), tokens, mass)


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
