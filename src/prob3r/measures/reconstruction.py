"""The model's output as a reconstruction: the cameras, the overlaps, the confidence.

All numbers of views 2, 3, … are those of the pair of view 1 and that view.
"""

from dataclasses import dataclass
from math import atan, degrees
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import (
    MatchTruth,
    PatchMatches,
    finite,
    invert_rigid,
    patch_grid,
    patch_matches,
    pointmap_error,
    pose_of_pointmap,
    rotation_angle,
    transform,
)
from prob3r.measures.attention import chance
from prob3r.measures.reference import Points, intrinsics_of
from prob3r.scenes import Pair, Views

TOLERANCE = 0.1
"""Relative difference in depth up to which two pointmaps of the model show the same surface."""

LOW_CONFIDENCE = 1.5


@dataclass(frozen=True)
class Final:
    """The model's output as a reconstruction of view 1 and one other view, here called view 2.

    Lengths are in the unit of all views' joint mean distance to camera 1.

    Attributes:
        camera2_to_1: Pose of camera 2 in camera 1's frame, by PnP; the identity if none is found.
        pose_found: Whether PnP found it.
        inliers: Share of view 2's pixels whose point this pose projects onto the pixel.
        rotation: Rotation between the cameras, in degrees.
        baseline: Distance between the cameras, as a share of the mean depth of both views.
        focal: Focal length of view 1, in pixels.
        focal_known: Whether it was given; otherwise it is estimated from view 1's pointmap.
        field_of_view: Horizontal field of view of view 1, in degrees.
        confidence: Median confidence of each view; 1 is the smallest possible value.
        unsure: Share of each view's pixels with a confidence below `LOW_CONFIDENCE`.
        overlap: Share of view 2's patches that view 1 sees too, by the model's own pointmaps.
        true_overlap: The same by the true pointmaps; NaN where they are not known.
        probe_gap: Mean distance between view 2's pointmap by the last probe and by the output; NaN
            without probes.
        image_difference: Mean difference of the two images' colours, at most 1; NaN if the sizes of
            the images differ.
        chance: The `agreement` of heads with random attention.
    """

    camera2_to_1: list[list[float]]
    pose_found: bool
    inliers: float
    rotation: float
    baseline: float
    focal: float
    focal_known: bool
    field_of_view: float
    confidence: tuple[float, float]
    unsure: tuple[float, float]
    overlap: float
    true_overlap: float
    probe_gap: float
    image_difference: float
    chance: float


class EstimatedCameras(NamedTuple):
    """The cameras estimated from the pointmaps of a model's output.

    Attributes:
        intrinsics: Intrinsics of all views, in pixels.
        poses: Poses of all cameras in camera 1's frame, in the output's unit; the identity where
            none is found.
        inliers: By view, the share of pixels whose point the pose projects onto the pixel; None
            where no pose is found, and for view 1.
    """

    intrinsics: tuple[Float[Tensor, "3 3"], ...]
    poses: Float[Tensor, "1 v 4 4"]
    inliers: tuple[float | None, ...]

    @classmethod
    def of(
        cls, views: Views, points: Points, confidence1: Float[Tensor, "1 h w"]
    ) -> "EstimatedCameras":
        """Return the cameras of a scene's output."""
        matrices = tuple(m[0] for m in intrinsics_of(views, points[0], confidence1))
        poses, inliers = [torch.eye(4).to(points[0])], list[float | None]([None])
        for own, matrix in zip(points[1:], matrices[1:], strict=True):
            found = pose_of_pointmap(own[0], matrix)
            poses.append(torch.eye(4).to(own) if found is None else found.cam_to_world)
            inliers.append(None if found is None else found.share)
        return cls(matrices, torch.stack(poses)[None], tuple(inliers))


class Matches(NamedTuple):
    """A view's matches in view 1, by the model's own output and in truth.

    Attributes:
        final: By the output's pointmaps.
        true: By the true pointmaps; None where they are not known.
    """

    final: PatchMatches
    true: PatchMatches | None

    @classmethod
    def of(
        cls, views: Views, points: Points, cameras: EstimatedCameras, view: int, patch: int
    ) -> "Matches":
        """Return the matches of a view, given the output's pointmaps of all views."""
        pair, first, own = views.pair(1, view), points[0], points[view - 1]
        seen1, seen = finite(first), finite(own)
        truth = MatchTruth(own, seen, first[..., 2], seen1, cameras.intrinsics[0][None])
        final = patch_matches(truth, patch, TOLERANCE)
        return cls(final, pair.patch_matches(patch) if pair.has_truth else None)


def reconstruction(
    pair: Pair,
    points: Points,
    confidence: tuple[Float[Tensor, "1 _h _w"], ...],
    probed: Float[Tensor, "1 h2 w2 3"] | None,
    cameras: EstimatedCameras,
    matches: Matches,
    view: int,
    patch: int,
) -> Final:
    """Return the numbers of the output of a view and of view 1.

    Args:
        pair: View 1 and the view.
        points: The output's pointmaps of both, in the views' joint unit.
        confidence: The output's confidences of both.
        probed: The view's pointmap by the last probe, in the same unit; None without probes.
        cameras: The output's cameras, in the same unit.
        matches: The view's matches.
        view: Number of the view.
        patch: Side of a patch, in pixels.
    """
    pose, inliers = cameras.poses[:, view - 1], cameras.inliers[view - 1]
    local2 = transform(points[1], invert_rigid(pose))
    depth = torch.cat([p[..., 2].flatten() for p in (points[0], local2)]).nanmean()
    focal = float(cameras.intrinsics[0][0, 0])
    first, second = pair.view1.image, pair.view2.image
    same_size = first.shape == second.shape
    true = matches.true
    return Final(
        camera2_to_1=pose[0].tolist(),
        pose_found=inliers is not None,
        inliers=inliers or 0.0,
        rotation=float(rotation_angle(pose[:, :3, :3])),
        baseline=float(pose[0, :3, 3].norm() / depth),
        focal=focal,
        focal_known=pair.view1.intrinsics is not None,
        field_of_view=2 * degrees(atan(pair.view1.size[1] / 2 / focal)),
        confidence=(float(confidence[0].median()), float(confidence[1].median())),
        unsure=(_share(confidence[0] < LOW_CONFIDENCE), _share(confidence[1] < LOW_CONFIDENCE)),
        overlap=_share(matches.final.visible),
        true_overlap=torch.nan if true is None else _share(true.visible),
        probe_gap=torch.nan if probed is None else _gap(probed, points[1]),
        image_difference=float((first - second).abs().mean()) / 2 if same_size else torch.nan,
        chance=chance(patch_grid(*pair.view1.size, patch)),
    )


def _gap(probed: Float[Tensor, "1 h w 3"], output: Float[Tensor, "1 h w 3"]) -> float:
    seen = finite(output) & finite(probed)
    return float(pointmap_error(probed, output, seen))


def _share(mask: Bool[Tensor, "*n"]) -> float:
    return float(mask.float().mean())
