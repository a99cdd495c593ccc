"""Camera pose estimated from a pointmap, and its error."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry.alignment import Similarity, align, align_robust
from prob3r.geometry.cameras import rotation_angle
from prob3r.geometry.pointmaps import pixel_grid


def pose_from_pointmap(
    local_true: Float[Tensor, "b h w 3"],
    predicted: Float[Tensor, "b h w 3"],
    valid: Bool[Tensor, "b h w"],
    robust: bool = True,
) -> Similarity:
    """View 2's pose and scale, estimated from its predicted pointmap with the true shape.

    Args:
        local_true: View 2's true points in camera 2's own frame.
        predicted: View 2's predicted points in camera 1's frame.
        valid: Pixels where the truth is known.
        robust: Whether to fit with `align_robust` (as all studies do by default) or with `align`.

    Returns:
        The similarity that takes `local_true` onto `predicted`: an estimate of the pose from
        camera 2 to camera 1, in the unit of the prediction.
    """
    fit = align_robust if robust else align
    weights = valid.to(predicted.dtype)
    return fit(local_true.flatten(1, 2), predicted.flatten(1, 2), weights.flatten(1))


def rotation_error(
    rotation: Float[Tensor, "b 3 3"], true: Float[Tensor, "b 3 3"]
) -> Float[Tensor, " b"]:
    """Angle of `true^T rotation`, in degrees from 0 to 180."""
    return rotation_angle(true.mT @ rotation)


def translation_error(
    translation: Float[Tensor, "b 3"],
    true: Float[Tensor, "b 3"],
    mean_depth: Float[Tensor, " b"] | None,
    *,
    smallest_baseline: float = 0.01,
) -> Float[Tensor, " b"]:
    """Angle between translations, in degrees from 0 to 180.

    The sign counts: a translation in the opposite direction is wrong by 180 degrees, not by 0.

    Args:
        translation: Predicted position of camera 2 in camera 1's frame, in any unit.
        true: The true position, in the unit of `mean_depth`.
        mean_depth: Mean true depth of each pair; None if unknown.
        smallest_baseline: Shortest baseline with a meaningful direction, as a share of the mean
            depth. It is not used if the mean depth is unknown.

    Returns:
        The angles. They are NaN where the true baseline is zero or shorter than the smallest
        baseline. They are 180, the worst value, where the predicted translation is zero and so has
        no direction.
    """
    sine = torch.linalg.cross(translation, true).norm(dim=-1)
    cosine = (translation * true).sum(dim=-1)
    angle = torch.rad2deg(torch.atan2(sine, cosine))
    angle = angle.masked_fill((translation == 0).all(dim=-1), 180)
    baseline = true.norm(dim=-1)
    measured = baseline > 0
    if mean_depth is not None:
        measured &= baseline >= smallest_baseline * mean_depth
    return angle.where(measured, torch.nan)


def scale_error(scale: Float[Tensor, " b"], true: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """`|log(scale / true)|`: 0 for the right scale; twice and half the scale have equal errors."""
    return (scale / true).log().abs()


class PnPPose(NamedTuple):
    """A camera's pose from the 3D points of its pixels.

    Attributes:
        cam_to_world: Takes points from the camera's frame to the frame of the points, in their
            unit.
        inliers: Mask of the pixels whose reprojection error is small enough.
        share: Share of the used pixels that are inliers.
    """

    cam_to_world: Float[Tensor, "4 4"]
    inliers: Bool[Tensor, "h w"]
    share: float


def pnp_pose(
    points: Float[Tensor, "h w 3"],
    intrinsics: Float[Tensor, "3 3"],
    valid: Bool[Tensor, "h w"] | None = None,
    *,
    max_error: float = 3.0,
    min_inliers: int = 12,
    max_iterations: int = 10_000,
    seed: int = 0,
) -> PnPPose | None:
    """Pose of the camera that saw a pointmap, without ground truth, by PnP in a RANSAC loop.

    The minimal solver, RANSAC and refinement are poselib's (LO-RANSAC over P3P). They run on the
    CPU and are not differentiable.

    Args:
        points: One predicted pointmap, for instance view 2's in camera 1's frame.
        intrinsics: Intrinsics of the camera that saw it, in pixels.
        valid: Pixels to use, for instance those of high confidence; by default all whose point is
            finite.
        max_error: Largest reprojection error of an inlier, in pixels.
        min_inliers: A pose with fewer inliers counts as not found.
        max_iterations: Largest number of RANSAC iterations.
        seed: Seed of RANSAC's sampling.

    Returns:
        The pose, or None if no pose was found or the intrinsics are invalid (not finite, or a focal
        length that is not positive). A failure is None and not NaN, so that no study leaves
        failures out of its statistics by accident. Count a failure as an infinite error.
    """
    import poselib  # imported here, so that all other code runs without poselib

    height, width, _ = points.shape
    used = points.isfinite().all(dim=-1)
    if valid is not None:
        used = used & valid
    k = intrinsics.tolist()
    if used.sum() < min_inliers or not intrinsics.isfinite().all() or min(k[0][0], k[1][1]) <= 0:
        return None
    pixels = pixel_grid(height, width, device=points.device)[used]
    camera = {
        "model": "PINHOLE",
        "width": width,
        "height": height,
        "params": [k[0][0], k[1][1], k[0][2], k[1][2]],
    }
    pose, info = poselib.estimate_absolute_pose(
        pixels.double().cpu().numpy(),
        points.detach()[used].double().cpu().numpy(),
        camera,
        {"max_reproj_error": max_error, "max_iterations": max_iterations, "seed": seed},
    )
    inliers = torch.zeros_like(used)
    inliers[used] = torch.as_tensor(np.asarray(info["inliers"], dtype=bool), device=used.device)
    world_to_cam = np.vstack([pose.Rt, [0, 0, 0, 1]])
    if inliers.sum() < min_inliers or not np.isfinite(world_to_cam).all():
        return None
    cam_to_world = np.linalg.inv(world_to_cam)
    share = float(inliers.sum() / used.sum())
    return PnPPose(torch.as_tensor(cam_to_world).to(points), inliers, share)
