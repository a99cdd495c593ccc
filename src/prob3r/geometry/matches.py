"""True matches of a pair: where view 2's points lie in view 1, and whether view 1 sees them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.geometry.cameras import project
from prob3r.geometry.pointmaps import central_pixels, patch_grid, patch_of_pixels

TOLERANCE = 0.02
"""Relative difference in depth up to which two points count as the same surface point."""


class MatchTruth(NamedTuple):
    """The ground truth that true matches are computed from. The two views may differ in size.

    Attributes:
        points2: View 2's true points in camera 1's frame.
        valid2: Pixels of view 2 whose point is known.
        depth1: View 1's true depth, in the unit of `points2`.
        valid1: Pixels of view 1 whose depth is known.
        intrinsics1: View 1's intrinsics, in pixels.
    """

    points2: Float[Tensor, "b h w 3"]
    valid2: Bool[Tensor, "b h w"]
    depth1: Float[Tensor, "b h1 w1"]
    valid1: Bool[Tensor, "b h1 w1"]
    intrinsics1: Float[Tensor, "b 3 3"]


class PixelMatches(NamedTuple):
    """Where view 2's pixels lie in view 1.

    Attributes:
        pixels: Positions (x, y) in view 1, in pixels; NaN for points behind camera 1.
        visible: Whether the point is valid, lies in view 1's image, and is not occluded there.
    """

    pixels: Float[Tensor, "b h w 2"]
    visible: Bool[Tensor, "b h w"]


class PatchMatches(NamedTuple):
    """Where view 2's patches lie in view 1.

    Attributes:
        match: The view-1 patch, counted row by row, that holds the match of each view-2 patch.
            The value has no meaning for a patch that is not visible.
        visible: Whether the patch's point is visible in view 1.
    """

    match: Int[Tensor, "b n"]
    visible: Bool[Tensor, "b n"]


def pixel_matches(truth: MatchTruth, tolerance: float = TOLERANCE) -> PixelMatches:
    """The match in view 1 of every pixel of view 2.

    A point is visible if view 1's depth at its projection equals its own depth, up to the relative
    tolerance. The depth is looked up in two ways, and at least one of them has to agree. The first
    is the inverse depth, interpolated bilinearly; it is exact on planes of any slope. The second is
    the depth of the nearest pixel; it is right beside an occluding edge, where interpolation mixes
    two surfaces. A lookup that uses a pixel without depth never agrees.

    Args:
        truth: Ground truth of both views.
        tolerance: Largest relative difference in depth.
    """
    points2, valid2, depth1, valid1, intrinsics1 = truth
    height, width = depth1.shape[-2:]
    pixels = project(points2, intrinsics1)
    _, inside = patch_of_pixels(pixels, height, width, 1)
    # grid_sample without aligned corners counts from edge to edge of the image, -1 to 1.
    size = torch.tensor([width, height], dtype=pixels.dtype, device=pixels.device)
    grid = ((2 * pixels + 1) / size - 1).nan_to_num()
    inverse_depth = (1 / depth1).where(valid1 & (depth1 > 0), torch.nan)[:, None]
    same = torch.zeros_like(inside)
    for mode in ("bilinear", "nearest"):
        seen = F.grid_sample(inverse_depth, grid, mode, "border", align_corners=False)[:, 0]
        same |= (points2[..., 2] * seen - 1).abs() <= tolerance
    return PixelMatches(pixels, same & inside & valid2)


def covisible(truth: MatchTruth, tolerance: float = TOLERANCE) -> Bool[Tensor, "b h w"]:
    """Mask of the pixels of view 2 whose point view 1 sees; arguments as in `pixel_matches`."""
    return pixel_matches(truth, tolerance).visible


def overlap(truth: MatchTruth, tolerance: float = TOLERANCE) -> Float[Tensor, " b"]:
    """Share of view 2's valid pixels whose point view 1 sees; arguments as in `pixel_matches`.

    It is 0 if view 2 has no valid pixel.
    """
    visible = covisible(truth, tolerance)
    return visible.sum(dim=(1, 2)) / truth.valid2.sum(dim=(1, 2)).clamp_min(1)


def patch_matches(truth: MatchTruth, patch: int, tolerance: float = TOLERANCE) -> PatchMatches:
    """The match in view 1 of every patch of view 2.

    The match of a patch is the match of its central pixel (see `central_pixels`). A mean over the
    pixels of a patch could give a point between two surfaces.

    Args:
        truth: Ground truth of both views.
        patch: Side of a patch in pixels, in both views.
        tolerance: As in `pixel_matches`.

    Raises:
        Prob3rError: If a view is not a whole number of patches.
    """
    rows, cols = patch_grid(truth.depth1.shape[1], truth.depth1.shape[2], patch)
    pixels, visible = central_matches(truth, patch, tolerance)
    match, _ = patch_of_pixels(pixels, rows, cols, patch)
    return PatchMatches(match.flatten(1), visible.flatten(1))


def central_matches(truth: MatchTruth, patch: int, tolerance: float = TOLERANCE) -> PixelMatches:
    """The match in view 1 of the central pixel of every patch of view 2; see `patch_matches`.

    Returns:
        Positions and visibility as maps with one value for each patch of view 2.

    Raises:
        Prob3rError: If view 2 is not a whole number of patches.
    """
    patch_grid(truth.valid2.shape[1], truth.valid2.shape[2], patch)  # raises if it does not fit
    points2, valid2 = (central_pixels(t, patch) for t in (truth.points2, truth.valid2))
    return pixel_matches(truth._replace(points2=points2, valid2=valid2), tolerance)
