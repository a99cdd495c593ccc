"""Statistics over pairs that several studies share."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, bootstrap, bootstrap_interval, median, percentiles


def wide(table: pd.DataFrame, columns: str) -> tuple[list[Any], Tensor]:
    """Return a long table as one row a pair and one column for each value of `columns`.

    Returns:
        The columns' names in their order in the table, and the values `(pairs, columns)`.
    """
    names = list(dict.fromkeys(table[columns]))
    values = table.pivot(index="pair", columns=columns, values="value")[names]
    return names, torch.tensor(values.to_numpy(copy=True))


def resampled(
    values: Float[Tensor, "n s"], statistic: Callable[[Tensor], Tensor] = median, seed: int = 0
) -> Float[Tensor, "draws s"]:
    """Return a statistic of every column over pairs drawn with replacement.

    The same seed draws the same pairs for any columns, so that their differences keep the pairing.
    """
    return bootstrap(values, statistic, generator=torch.Generator().manual_seed(seed))


def interval(value: Tensor | float, drawn: Float[Tensor, " draws"]) -> Interval:
    """Return a value with the 95 % percentile interval of its bootstrap draws."""
    low, high = percentiles(drawn.double())
    return Interval(float(value), float(low), float(high))


def median_interval(values: Float[Tensor, " n"]) -> Interval:
    """Return the median over pairs, with its 95 % bootstrap interval."""
    return bootstrap_interval(values, generator=torch.Generator().manual_seed(0))


def mean_interval(values: Float[Tensor, " n"]) -> Interval:
    """Return the mean over scenes, with its 95 % bootstrap interval."""
    return bootstrap_interval(values, mean, generator=torch.Generator().manual_seed(0))


def mean(values: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Return the mean over the last axis, without NaN."""
    return values.nanmean(-1)


def medians(
    values: Float[Tensor, "n s"],
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return the median of every column, and the ends of its 95 % bootstrap interval."""
    return median(values.T), *percentiles(resampled(values))


def as_text(found: Interval, places: int = 2, sign: str = "+") -> str:
    """Return an interval as findings print it.

    Args:
        found: The value and its interval.
        places: Number of decimal places.
        sign: `+` prints the sign of every number, as for a change; `-` that of negative ones alone.
    """
    if math.isnan(found.value):
        return "not measurable"
    value, low, high = (f"{number:{sign}.{places}f}" for number in found)
    return f"{value} [{low}, {high}]"
