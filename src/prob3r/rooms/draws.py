"""Random numbers as a fixed vector, so that a scene is a pure function of its seed."""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Draws:
    """Hands out a fixed vector of uniform numbers, column by column."""

    def __init__(self, numbers: Float[Tensor, "b n"]) -> None:
        self.numbers = numbers
        self.used = 0

    def between(
        self, low: int | float, high: int | float, *shape: int
    ) -> Float[Tensor, " b *shape"]:
        """The next numbers, shaped ``(b, *shape)`` and scaled to [low, high)."""
        count = math.prod(shape)
        columns = self.numbers[:, self.used : self.used + count]
        self.used += count
        return low + (high - low) * columns.reshape(-1, *shape)

    def chance(self, probability: float, *shape: int) -> Bool[Tensor, " b *shape"]:
        """True with this probability."""
        return self.between(0.0, 1.0, *shape) < probability

    def order(self, count: int) -> Int[Tensor, "b count"]:
        """A random permutation of 0, ..., count - 1."""
        return self.between(0.0, 1.0, count).argsort(dim=1)
