"""Cameras estimated from predicted pointmaps: focal lengths, and poses by PnP."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry.cameras import focal_from_pointmap
from prob3r.geometry.pose import PnPPose, pnp_pose

PNP_PIXELS = 20_000  # enough for RANSAC; more pixels only take more time
PNP_ITERATIONS = 1000


def central_intrinsics(focal: Float[Tensor, " b"], size: tuple[int, int]) -> Float[Tensor, "b 3 3"]:
    """Return intrinsics with a focal length and the principal point in the image's middle.

    Args:
        focal: Focal length of both axes, in pixels.
        size: Height and width of the image.
    """
    matrix = torch.eye(3, dtype=focal.dtype, device=focal.device).repeat(len(focal), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = focal
    matrix[:, 1, 2], matrix[:, 0, 2] = ((side - 1) / 2 for side in size)
    return matrix


def intrinsics_from_pointmap(
    points1: Float[Tensor, "b h w 3"],
    sizes: Sequence[tuple[int, int]],
    known: Sequence[Float[Tensor, "b 3 3"] | None],
    weights: Float[Tensor, "b h w"] | None = None,
) -> list[Float[Tensor, "b 3 3"]]:
    """Return the intrinsics of all views; unknown ones are estimated from view 1's pointmap.

    A view without intrinsics gets the focal length of view 1's pointmap, as if one camera took all
    photographs, and the principal point in the middle of the image.

    Args:
        points1: View 1's predicted pointmap, in camera 1's frame, in any unit.
        sizes: Height and width of each view.
        known: The intrinsics of each view in pixels, or None.
        weights: Weights of view 1's pixels, for instance the confidence; all equal by default.
    """
    focal = focal_from_pointmap(points1, weights)
    return [
        central_intrinsics(focal, size) if matrix is None else matrix
        for size, matrix in zip(sizes, known, strict=True)
    ]


def pose_of_pointmap(
    points: Float[Tensor, "h w 3"], intrinsics: Float[Tensor, "3 3"], pixels: int = PNP_PIXELS
) -> PnPPose | None:
    """Return the pose of the camera that saw a pointmap, by PnP, or None if PnP finds none.

    Args:
        points: The pointmap of one view, for instance view 2's in camera 1's frame.
        intrinsics: Intrinsics of that view, in pixels.
        pixels: Approximate largest number of pixels to use; they lie on a regular grid.
    """
    height, width, _ = points.shape
    stride = max(1, round((height * width / pixels) ** 0.5))
    used = torch.zeros(height, width, dtype=torch.bool, device=points.device)
    used[::stride, ::stride] = True
    return pnp_pose(points, intrinsics, used, max_iterations=PNP_ITERATIONS)
