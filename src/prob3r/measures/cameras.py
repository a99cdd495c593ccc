"""Both cameras of a pair as its predicted pointmaps state them."""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import focal_from_pointmap, pnp_pose
from prob3r.geometry.pose import PnPPose
from prob3r.scenes.views import Pair

PNP_PIXELS = 20_000  # enough for RANSAC; more only take time
PNP_ITERATIONS = 1000


def intrinsics(
    pair: Pair, points1: Float[Tensor, "1 h w 3"], weights: Float[Tensor, "1 h w"] | None = None
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Return both views' intrinsics: known, or with the focal length of view 1's pointmap.

    Without intrinsics view 2 is taken to have view 1's focal length, as two photographs from one
    camera have, and principal points to be central.

    Args:
        pair: The pair.
        points1: View 1's predicted pointmap.
        weights: Of its pixels, for instance the confidence; all alike by default.
    """
    focal = focal_from_pointmap(points1, weights)[0]
    first, second = (
        _central(focal, *view.size) if view.intrinsics is None else view.intrinsics[0]
        for view in (pair.view1, pair.view2)
    )
    return first, second


def camera2(points2: Float[Tensor, "1 h w 3"], matrix: Float[Tensor, "3 3"]) -> PnPPose | None:
    """Return camera 2's pose by PnP from its pointmap, or None where there is none.

    Args:
        points2: View 2's pointmap in camera 1's frame.
        matrix: View 2's intrinsics.
    """
    height, width = points2.shape[1:3]
    stride = max(1, round((height * width / PNP_PIXELS) ** 0.5))
    used = torch.zeros(height, width, dtype=torch.bool, device=points2.device)
    used[::stride, ::stride] = True
    return pnp_pose(points2[0], matrix, used, max_iterations=PNP_ITERATIONS)


def _central(focal: Float[Tensor, ""], height: int, width: int) -> Float[Tensor, "3 3"]:
    matrix = torch.eye(3, dtype=focal.dtype, device=focal.device)
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[0, 2], matrix[1, 2] = (width - 1) / 2, (height - 1) / 2
    return matrix
