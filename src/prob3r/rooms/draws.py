"""Random draws from a fixed vector of numbers, so that a scene is a pure function of its seed."""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Draws:
    """Makes random draws from a fixed vector of uniform numbers, column by column.

    Args:
        numbers: Numbers in [0, 1), one row for each scene.
    """

    def __init__(self, numbers: Float[Tensor, "b n"]) -> None:
        self.numbers = numbers
        self.used = 0

    def between(
        self, low: int | float, high: int | float, *shape: int
    ) -> Float[Tensor, " b *shape"]:
        """Return the next numbers, with shape ``(b, *shape)`` and scaled to [low, high)."""
        count = math.prod(shape)
        columns = self.numbers[:, self.used : self.used + count]
        self.used += count
        return low + (high - low) * columns.reshape(-1, *shape)

    def chance(self, probability: float, *shape: int) -> Bool[Tensor, " b *shape"]:
        """Return booleans that are True with this probability, with shape ``(b, *shape)``."""
        return self.between(0.0, 1.0, *shape) < probability

    def order(self, count: int) -> Int[Tensor, "b count"]:
        """Return a random permutation of 0, ..., count - 1 for each scene."""
        return self.between(0.0, 1.0, count).argsort(dim=1)
