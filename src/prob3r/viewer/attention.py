"""Attention of chosen patches: where they display, as heat on the other view and as rays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from prob3r.measures.attention import Strongest

MOST_PINS = 6
RAYS = 12
"""The most attended patches that get a ray."""


@dataclass(frozen=True)
class Pin:
    """A patch that a person chose.

    Attributes:
        view: Number of its view.
        patch: Its number, row by row.
    """

    view: int
    patch: int

    def words(self, columns: int) -> str:
        """Return where it is, such as `view 2, row 5, column 3`."""
        row, column = divmod(self.patch, columns)
        return f"view {self.view}, row {row}, column {column}"


class Rays(NamedTuple):
    """The patches of the other view that a patch looks at most.

    Attributes:
        keys: Their numbers, by falling weight.
        weights: The attention on them, as a share of the largest.
    """

    keys: Int[np.ndarray, " r"]
    weights: Float[np.ndarray, " r"]


def weights(
    attention: Mapping[tuple[int, int], Strongest], pin: Pin, other: int, keys: int
) -> Float[np.ndarray, "blocks k {keys}"]:
    """Return a patch's attention on all `keys` patches of another view, the mean head last.

    Keys that were not kept, since they are weaker than all that were, have 0.
    """
    kept = attention[pin.view, other]
    blocks, heads = kept.keys.shape[:2]
    spread = torch.zeros(blocks, heads, keys)
    index, probs = kept.keys[:, :, pin.patch].cpu(), kept.probs[:, :, pin.patch].cpu()
    return spread.scatter_(2, index, probs.float()).numpy()


def rays(row: Float[np.ndarray, " m"], most: int = RAYS) -> Rays:
    """Return the strongest keys of one row of attention."""
    keys = np.argsort(-row)[:most]
    largest = max(float(row[keys[0]]), 1e-12)
    return Rays(keys, (row[keys] / largest).astype(row.dtype))


def heat(row: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return a row of attention from 0 to 1, weak ones lifted by a square root to be seen."""
    lifted = np.sqrt(np.clip(row, 0, None))
    result: np.ndarray = lifted / max(float(lifted.max()), 1e-6)
    return result
