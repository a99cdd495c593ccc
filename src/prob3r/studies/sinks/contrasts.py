"""How the numbers of sinks are read: by key, by pair, and each removal beside its controls."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.tokens import CUTS
from prob3r.studies.cuts.contrasts import Contrast
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


def removal_contrast(
    table: pd.DataFrame, kind: str, mode: str, metric: str = CHANGE
) -> Contrast | None:
    """Return what removing the sinks of a kind changes; None if there is none."""
    rows = table[(table.metric == metric) & (table.kind == kind) & (table["mode"] == mode)]
    if set(rows.cut) != set(CUTS):
        return None
    return Contrast.of({cut: effect(rows, metric, cut=cut) for cut in CUTS})
