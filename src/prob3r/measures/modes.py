"""Silverman's test: do values come from a density with one mode, or with more?

After Silverman, "Using kernel density estimates to investigate multimodality" (1981). The critical
bandwidth is the least one with which a Gaussian kernel density estimate of the values has a single
mode. Samples are drawn from that estimate, scaled to the variance of the values. The p-value is the
share of them that have more than one mode with the same bandwidth.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

DRAWS = 500
GRID = 512
FEWEST = 5
"""The smallest number of values that the test accepts."""

_HALVINGS = 30  # of the interval that holds the critical bandwidth
_AT_ONCE = 25  # samples whose densities are held at once
_NOTHING = 1e-6  # of the greatest density; lower maxima are rounding errors, not modes


def modality(values: Float[Tensor, " n"], seed: int = 0) -> float:
    """Return the p-value of a single mode; NaN for fewer than `FEWEST` values or equal ones."""
    values = values.double()
    if len(values) < FEWEST or not values.std() > 0:
        return torch.nan
    width = critical_bandwidth(values)
    generator = torch.Generator().manual_seed(seed)
    variance, more = values.var(correction=0), 0
    for start in range(0, DRAWS, _AT_ONCE):
        shape = (min(_AT_ONCE, DRAWS - start), len(values))
        drawn = values[torch.randint(len(values), shape, generator=generator)]
        noise = torch.randn(shape, generator=generator, dtype=values.dtype)
        shrunk = (1 + width**2 / variance).sqrt()
        samples = values.mean() + (drawn - values.mean() + width * noise) / shrunk
        more += int((count_modes(samples, width) > 1).sum())
    return more / DRAWS


def critical_bandwidth(values: Float[Tensor, " n"]) -> float:
    """Return the least bandwidth with which a kernel density estimate has a single mode."""
    span = float(values.max() - values.min())
    low, high = 1e-3 * span, span
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        if int(count_modes(values[None], middle)) > 1:
            low = middle
        else:
            high = middle
    return high


def count_modes(samples: Float[Tensor, "b n"], bandwidth: float) -> Int[Tensor, " b"]:
    """Return how many modes the Gaussian kernel density estimate of each sample has."""
    low = samples.amin(1, keepdim=True) - 3 * bandwidth
    high = samples.amax(1, keepdim=True) + 3 * bandwidth
    steps = torch.linspace(0, 1, GRID, dtype=samples.dtype)
    grid = low + (high - low) * steps
    scaled = (grid[:, :, None] - samples[:, None]) / bandwidth
    density = (-scaled.square() / 2).exp().sum(-1)
    density = density / density.amax(1, keepdim=True)
    before, here, after = density[:, :-2], density[:, 1:-1], density[:, 2:]
    return ((here > before) & (here >= after) & (here > _NOTHING)).sum(1)
