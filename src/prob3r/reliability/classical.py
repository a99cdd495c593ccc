"""The classical pipeline for two views: keypoints, fixed matches, essential matrix, triangulation.

The matches come from `matchers`. The relative pose, with known intrinsics, comes from poselib's
LO-RANSAC with the five-point solver. The points of the inliers are triangulated by the midpoint
method. Errors of matches and points are measured here, too.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, median, project, transform
from prob3r.reliability.matchers import Matcher, sift_matches
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair

MAX_ERROR = 1.0  # Sampson distance of an inlier, in pixels
ENOUGH = 15  # fewest inliers of a pose that counts as found, as in COLMAP
ITERATIONS = 10_000  # largest number of RANSAC iterations
NEAR = 1 / 32  # largest error of a right match, as a share of view 1's longer side: 3 of 96 pixels


class ClassicalReconstruction(NamedTuple):
    """The result of the classical pipeline for a pair.

    Attributes:
        pixels1: Positions (x, y) of the matches in view 1, in pixels.
        pixels2: Positions (x, y) of the matches in view 2, in pixels.
        inliers: Whether each match agrees with the pose; all False if no pose is found.
        pose2_to_1: Motion from camera 2's frame to camera 1's, with the baseline as the unit of
            length; None if too few matches agree with one pose.
        points: Points of the inliers in camera 1's frame, in the same unit.
    """

    pixels1: Float[Tensor, "m 2"]
    pixels2: Float[Tensor, "m 2"]
    inliers: Bool[Tensor, " m"]
    pose2_to_1: Float[Tensor, "4 4"] | None
    points: Float[Tensor, "k 3"]


def reconstruct(pair: Pair, match: Matcher = sift_matches) -> ClassicalReconstruction:
    """Return the relative pose and the points of one pair, from fixed matches alone.

    Args:
        pair: A batch of one pair on the CPU, with intrinsics.
        match: The matcher.

    Raises:
        Prob3rError: A package that the matcher needs is not installed, or a view has no intrinsics.
    """
    matrix1, matrix2 = intrinsics_of(pair.view1), intrinsics_of(pair.view2)
    pixels1, pixels2 = match(pair.view1.image[0], pair.view2.image[0])
    pose, inliers = pose_from_matches(pair, pixels1, pixels2)
    rays1, rays2 = rays(pixels1[inliers], matrix1), rays(pixels2[inliers], matrix2)
    points = rays1 if pose is None else triangulate(rays1, rays2, pose)
    return ClassicalReconstruction(pixels1, pixels2, inliers, pose, points)


def pose_from_matches(
    pair: Pair, pixels1: Float[Tensor, "m 2"], pixels2: Float[Tensor, "m 2"]
) -> tuple[Float[Tensor, "4 4"] | None, Bool[Tensor, " m"]]:
    """Return the motion from camera 2's frame to camera 1's, and the matches that agree with it.

    Args:
        pair: A batch of one, with intrinsics.
        pixels1: Positions of the matches in view 1, on the CPU.
        pixels2: Positions of the matches in view 2.

    Returns:
        The motion, with the baseline as the unit of length, or None if too few matches agree with
        one motion; and a mask of the matches that agree.

    Raises:
        Prob3rError: A view has no intrinsics.
    """
    import poselib  # imported here, so that all other code runs without poselib

    none = torch.zeros(len(pixels1), dtype=torch.bool)
    known = all(intrinsics_of(view).isfinite().all() for view in pair.views)
    if len(pixels1) < ENOUGH or not known:
        return None, none
    pose, info = poselib.estimate_relative_pose(
        pixels1.double().numpy(),
        pixels2.double().numpy(),
        _camera(pair.view1),
        _camera(pair.view2),
        {"max_epipolar_error": MAX_ERROR, "max_iterations": ITERATIONS, "seed": 0},
    )
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    if inliers.sum() < ENOUGH or not np.isfinite(pose.Rt).all():
        return None, none
    view1_to_view2 = torch.as_tensor(np.vstack([pose.Rt, [0, 0, 0, 1]]))
    return invert_rigid(view1_to_view2[None])[0], inliers


def triangulate(
    rays1: Float[Tensor, "n 3"], rays2: Float[Tensor, "n 3"], pose2_to_1: Float[Tensor, "4 4"]
) -> Float[Tensor, "n 3"]:
    """Return the midpoint of the shortest segment between two rays, in camera 1's frame.

    Args:
        rays1: Directions in camera 1's frame.
        rays2: Directions in camera 2's frame.
        pose2_to_1: Motion from camera 2's frame to camera 1's.
    """
    centre = pose2_to_1[:3, 3].expand_as(rays1)
    turned = rays2 @ pose2_to_1[:3, :3].mT
    lengths = torch.linalg.lstsq(torch.stack([rays1, -turned], dim=-1), centre[..., None]).solution
    return (lengths[:, 0] * rays1 + lengths[:, 1] * turned + centre) / 2


def rays(pixels: Float[Tensor, "n 2"], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "n 3"]:
    """Return the directions of pixels in the camera's frame, with z = 1, in float64.

    Args:
        pixels: Positions (x, y) in pixels.
        matrix: The intrinsics.
    """
    homogeneous = torch.nn.functional.pad(pixels.double(), (0, 1), value=1.0)
    directions: Tensor = homogeneous @ torch.linalg.inv(matrix.double()).mT
    return directions


def intrinsics_of(view: View) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of a batch of one view; raise Prob3rError if they are not known."""
    if view.intrinsics is None:
        raise Prob3rError("The classical pipeline needs the intrinsics of both views.")
    return view.intrinsics[0]


def right_matches(
    pixels1: Float[Tensor, "m 2"], pixels2: Float[Tensor, "m 2"], pair: Pair
) -> Float[Tensor, ""]:
    """Return the share of right matches among those whose true match is known; 0 without any.

    A match is right if it is at most `NEAR` from the true one.

    Args:
        pixels1: Positions (x, y) of the matches in view 1, in pixels.
        pixels2: Positions (x, y) of the matches in view 2, in pixels.
        pair: A batch of one pair with ground truth.
    """
    local2, known = true_points(pair.view2, pixels2)
    points2 = transform(local2[None], pair.view2_to_view1.double())
    true1 = project(points2, intrinsics_of(pair.view1)[None].double())[0]
    near = (true1 - pixels1).norm(dim=-1) <= NEAR * max(pair.view1.size)
    return near[known].double().mean().nan_to_num(0.0)


def point_error(
    points: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], unit: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the median distance of points to the true points, in `unit`; NaN without a point.

    The points are first multiplied by the median ratio of the distances to the origin.
    """
    if not len(points):
        return torch.full_like(unit, torch.nan)
    scale = median(true.norm(dim=-1) / points.norm(dim=-1))
    return median((scale * points - true).norm(dim=-1)) / unit


def true_points(
    view: View, pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """Return the true points at positions (x, y) in one view, with the depth of the nearest pixel.

    Returns:
        The points in the camera's own frame, and a mask of the points that are known.
    """
    height, width = view.size
    column, row = pixels.round().long().unbind(-1)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    depth = view.points[0, row, column, 2]
    return rays(pixels, intrinsics_of(view)) * depth[:, None], view.known[0, row, column]


def _camera(view: View) -> dict[str, object]:
    matrix = intrinsics_of(view).tolist()
    params = [matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]]
    height, width = view.size
    return {"model": "PINHOLE", "width": width, "height": height, "params": params}
