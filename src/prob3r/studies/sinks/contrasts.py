"""How the numbers of sinks are read: by key, by pair, and each removal beside its controls."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import median_interval
from prob3r.measures.tokens import CHOSEN, COUNT, CUTS, MASS
from prob3r.studies.cuts.effects import effect
from prob3r.studies.sinks.measured import CHANGE


def of_keys(table: pd.DataFrame, metric: str, kinds: tuple[str, ...]) -> pd.Series:
    """Return the mean over pairs of every key of some kinds."""
    rows = table[(table.metric == metric) & table.kind.isin(kinds) & (table.key >= 0)]
    return rows.groupby(["sublayer", "block", "head", "key"]).value.mean()


def per_pair(table: pd.DataFrame, metric: str, kind: str) -> Float[Tensor, " n"] | None:
    """Return the mean over the keys, or heads, of a kind for each pair; None if there is none."""
    rows = table[(table.metric == metric) & (table.kind == kind)]
    if rows.empty:
        return None
    return torch.tensor(rows.groupby("pair").value.mean().to_numpy(copy=True))


class Contrast(NamedTuple):
    """What removing the sinks of a kind changes.

    Attributes:
        change: The change itself.
        over: More than that by as many random keys of the same heads.
        over_mass: More than that by random keys of as much attention.
    """

    change: Interval
    over: Interval
    over_mass: Interval


def contrast(table: pd.DataFrame, kind: str, mode: str, metric: str = CHANGE) -> Contrast | None:
    """Return what removing the sinks of a kind changes; None if there is none."""
    rows = table[(table.metric == metric) & (table.kind == kind) & (table["mode"] == mode)]
    if set(rows.cut) != set(CUTS):
        return None
    values = {cut: effect(rows, metric, cut=cut) for cut in CUTS}
    return Contrast(
        median_interval(values[CHOSEN]),
        median_interval(values[CHOSEN] - values[COUNT]),
        median_interval(values[CHOSEN] - values[MASS]),
    )
