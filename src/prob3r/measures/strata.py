"""Strata of pairs: easy and hard, by overlap and relative rotation."""

from jaxtyping import Bool
from torch import Tensor

from prob3r.geometry import rotation_angle
from prob3r.scenes.views import Pair

EASY = "overlap over 0.5 and rotation under 40 degrees"
HARD = "overlap under 0.3 or rotation over 60 degrees"
"""The strata; pairs in neither count in `all` alone."""


def strata(pair: Pair) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return which pairs are easy and which are hard, by the cut points of `EASY` and `HARD`."""
    overlap = pair.overlap()
    rotation = rotation_angle(pair.view2_to_view1[:, :3, :3])
    return (overlap > 0.5) & (rotation < 40), (overlap < 0.3) | (rotation > 60)
