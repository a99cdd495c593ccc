"""The effect of a cut beside those of its two random controls."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import median_interval
from prob3r.measures.tokens import CHOSEN, COUNT, MASS


class Contrast(NamedTuple):
    """The effect of a cut, and its excess over the controls.

    Attributes:
        effect: The effect of the cut.
        over_count: The effect less that of the control matched in count.
        over_mass: The effect less that of the control matched in attention mass.
    """

    effect: Interval
    over_count: Interval
    over_mass: Interval

    @classmethod
    def of(cls, effects: Mapping[str, Float[Tensor, " n"]]) -> "Contrast":
        """Return the contrast of effects on the same scenes, by `measures.tokens.CUTS`."""
        chosen = effects[CHOSEN]
        return cls(
            median_interval(chosen),
            median_interval(chosen - effects[COUNT]),
            median_interval(chosen - effects[MASS]),
        )

    @property
    def stands_out(self) -> bool:
        """Whether the effect is above that of both controls, by intervals."""
        return self.over_count.low > 0 and self.over_mass.low > 0

    def by_more_than(self, least: float) -> bool:
        """Whether it stands out, and exceeds each control by more than `least` in the median."""
        return self.stands_out and min(self.over_count.value, self.over_mass.value) > least
