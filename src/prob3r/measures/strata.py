"""Strata of scenes: easy and hard, by overlap and relative rotation."""

from functools import reduce

import torch
from jaxtyping import Bool
from torch import Tensor

from prob3r.geometry import rotation_angle
from prob3r.scenes.views import Views

EASY = "overlap over 0.5 and rotation under 40 degrees"
HARD = "overlap under 0.3 or rotation over 60 degrees"
"""The strata; pairs in neither count in `all` alone."""


def strata(views: Views) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return which scenes are easy and which are hard, by the cut points of `EASY` and `HARD`.

    A scene of more than two views is easy if each further view makes an easy pair with view 1, and
    hard if one of them makes a hard pair.
    """
    pairs = [views.pair(1, number) for number in range(2, views.count + 1)]
    overlaps = [pair.overlap() for pair in pairs]
    rotations = [rotation_angle(pair.view2_to_view1[:, :3, :3]) for pair in pairs]
    overlap, rotation = reduce(torch.minimum, overlaps), reduce(torch.maximum, rotations)
    return (overlap > 0.5) & (rotation < 40), (overlap < 0.3) | (rotation > 60)
