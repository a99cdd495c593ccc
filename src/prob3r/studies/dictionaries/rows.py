"""The rows of the table of dictionaries: their names, and their values by pair."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.probes.dictionary import NEURONS, PRINCIPAL, RANDOM

ATOMS, UNTRAINED, MEAN, CLEAN = "atoms", "untrained", "mean", "clean"

RIVALS = (PRINCIPAL, RANDOM, NEURONS)
"""The other units of the same streams."""

UNEXPLAINED, ACTIVE, MOVED = "unexplained", "active", "moved"
METRICS = ("rotation_error", "translation_error", "shape_error", "pointmap_error2")


def places_of(table: pd.DataFrame) -> list[str]:
    """Return the places that have dictionaries of the model, in their order."""
    rows = table[(table.source == ATOMS) & (table.metric == UNEXPLAINED)]
    return list(dict.fromkeys(rows.site))


def values_of(
    table: pd.DataFrame, metric: str, source: str, place: str | None = None, column: str = "value"
) -> Float[Tensor, " n"]:
    """Return a column's values pair by pair; NaN for pairs without one.

    All values of a metric are those of the same pairs in the same order.
    """
    every = sorted(table.pair.unique())
    rows = table[(table.metric == metric) & (table.source == source)]
    if place is not None:
        rows = rows[rows.site == place]
    found = rows.set_index("pair")[column].reindex(every)
    return torch.tensor(found.to_numpy(dtype=float, copy=True))


def sources_of(table: pd.DataFrame, metric: str) -> list[str]:
    """Return the sources that have rows of a metric, in their order."""
    return list(dict.fromkeys(table[table.metric == metric].source))
