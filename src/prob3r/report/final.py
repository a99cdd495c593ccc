"""The model's output as a reconstruction: two cameras, an overlap, a confidence."""

from math import atan, degrees
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import (
    MatchTruth,
    PatchMatches,
    intrinsics_from_pointmap,
    invert_rigid,
    patch_grid,
    patch_matches,
    pointmap_error,
    pose_of_pointmap,
    rotation_angle,
    transform,
)
from prob3r.report.attention import chance
from prob3r.report.measurements import LOW_CONFIDENCE, Final
from prob3r.report.reference import Points
from prob3r.scenes import Pair

TOLERANCE = 0.1
"""Relative difference in depth up to which the model's own pointmaps show one surface twice."""


class Cameras(NamedTuple):
    """Both cameras as the model's output states them.

    Attributes:
        intrinsics: Of both views, in pixels.
        pose: Of camera 2 in camera 1's frame, in the output's unit; the identity if none is found.
        inliers: Share of view 2's pixels whose point is seen where it should be; None if no pose is
            found.
    """

    intrinsics: tuple[Float[Tensor, "3 3"], ...]
    pose: Float[Tensor, "1 4 4"]
    inliers: float | None

    @classmethod
    def of(cls, pair: Pair, points: Points, confidence1: Float[Tensor, "1 h w"]) -> "Cameras":
        """Return the cameras of a pair's output."""
        views = pair.view1, pair.view2
        first, second = intrinsics_from_pointmap(
            points[0], [view.size for view in views], [v.intrinsics for v in views], confidence1
        )
        matrices = first[0], second[0]
        found = pose_of_pointmap(points[1][0], second[0])
        if found is None:
            return cls(matrices, torch.eye(4).to(points[1])[None], None)
        return cls(matrices, found.cam_to_world[None], found.share)


class Matches(NamedTuple):
    """View 2's matches in view 1, by the model's own output and in truth.

    Attributes:
        final: By the output's pointmaps.
        true: By the true pointmaps; None where they are not known.
    """

    final: PatchMatches
    true: PatchMatches | None

    @classmethod
    def of(cls, pair: Pair, points: Points, cameras: Cameras, patch: int) -> "Matches":
        """Return the matches of a pair whose output these points are."""
        seen1, seen2 = (p.isfinite().all(dim=-1) for p in points)
        depth1 = points[0][..., 2]
        seen = MatchTruth(points[1], seen2, depth1, seen1, cameras.intrinsics[0][None])
        final = patch_matches(seen, patch, TOLERANCE)
        return cls(final, pair.patch_matches(patch) if pair.has_truth else None)


def reconstruction(
    pair: Pair,
    points: Points,
    confidence: tuple[Float[Tensor, "1 _h _w"], ...],
    probe2: Float[Tensor, "1 h2 w2 3"],
    cameras: Cameras,
    matches: Matches,
    patch: int,
) -> Final:
    """Return the numbers of the output.

    Args:
        pair: The pair.
        points: The output's pointmaps, in the pair's unit.
        confidence: The output's confidences.
        probe2: View 2's pointmap by the last probe, in the pair's unit.
        cameras: Of the output, in the pair's unit.
        matches: Of the output.
        patch: Side of a patch, in pixels.
    """
    local2 = transform(points[1], invert_rigid(cameras.pose))
    depth = torch.cat([p[..., 2].flatten() for p in (points[0], local2)]).nanmean()
    focal = float(cameras.intrinsics[0][0, 0])
    seen = points[1].isfinite().all(dim=-1) & probe2.isfinite().all(dim=-1)
    first, second = pair.view1.image, pair.view2.image
    same_size = first.shape == second.shape
    true = matches.true
    return Final(
        camera2_to_1=cameras.pose[0].tolist(),
        pose_found=cameras.inliers is not None,
        inliers=cameras.inliers or 0.0,
        rotation=float(rotation_angle(cameras.pose[:, :3, :3])),
        baseline=float(cameras.pose[0, :3, 3].norm() / depth),
        focal=focal,
        focal_known=pair.view1.intrinsics is not None,
        field_of_view=2 * degrees(atan(pair.view1.size[1] / 2 / focal)),
        confidence=(float(confidence[0].median()), float(confidence[1].median())),
        unsure=(_share(confidence[0] < LOW_CONFIDENCE), _share(confidence[1] < LOW_CONFIDENCE)),
        overlap=_share(matches.final.visible),
        true_overlap=torch.nan if true is None else _share(true.visible),
        probe_gap=float(pointmap_error(probe2, points[1], seen)),
        image_difference=float((first - second).abs().mean()) / 2 if same_size else torch.nan,
        chance=chance(patch_grid(*pair.view1.size, patch)),
    )


def _share(mask: Bool[Tensor, "*n"]) -> float:
    return float(mask.float().mean())
