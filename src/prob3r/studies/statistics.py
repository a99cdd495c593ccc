"""Statistics over pairs that several studies share."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, median

DRAWS = 1000
_ELEMENTS = 2**24  # values drawn at once, which bounds the memory


def wide(table: pd.DataFrame, columns: str) -> tuple[list[Any], Tensor]:
    """Return a long table as one row a pair and one column for each value of `columns`.

    Returns:
        The columns' names in their order in the table, and the values `(pairs, columns)`.
    """
    names = list(dict.fromkeys(table[columns]))
    values = table.pivot(index="pair", columns=columns, values="value")[names]
    return names, torch.tensor(values.to_numpy())


def resampled(
    values: Float[Tensor, "n s"],
    statistic: Callable[[Tensor], Tensor] = median,
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[Tensor, "draws s"]:
    """Return a statistic of every column over pairs drawn with replacement.

    All columns share a draw's pairs, so that differences between columns keep their pairing.

    Args:
        values: One row a pair; NaN is left out, as the statistic does.
        statistic: Reduces the last axis.
        draws: How many.
        seed: Of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    n, s = values.shape
    chunk = max(1, _ELEMENTS // max(1, n * s))
    parts = []
    for start in range(0, draws, chunk):
        index = torch.randint(n, (min(chunk, draws - start), n), generator=generator)
        parts.append(statistic(values[index].transpose(1, 2)))
    return torch.cat(parts)


def interval(value: Tensor | float, drawn: Float[Tensor, " draws"]) -> Interval:
    """Return a value with the 95 % percentile interval of its resampled twins."""
    known = drawn[~drawn.isnan()].double()
    if not len(known):
        return Interval(float(value), torch.nan, torch.nan)
    low, high = (float(known.quantile(q, interpolation="nearest")) for q in (0.025, 0.975))
    return Interval(float(value), low, high)


def median_interval(values: Float[Tensor, " n"]) -> Interval:
    """Return the median over pairs, with its 95 % bootstrap interval."""
    return interval(median(values), resampled(values[:, None])[:, 0])


def medians(
    values: Float[Tensor, "n s"], seed: int = 0
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return the median of every column, and the ends of its 95 % bootstrap interval."""
    drawn = resampled(values, seed=seed)
    low, high = drawn.nanquantile(0.025, dim=0), drawn.nanquantile(0.975, dim=0)
    return median(values.T), low, high
