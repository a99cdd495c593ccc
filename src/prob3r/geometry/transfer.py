"""Matches of pixels by a homography, by predicted points, and by predicted descriptors."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry.clouds import PointTree
from prob3r.geometry.pointmaps import pixel_grid

_AT_ONCE = 1024  # pixels of view 2 that are compared with all of view 1 at once; bounds the memory


def transfer(
    pixels: Float[Tensor, "*n 2"], homography: Float[Tensor, "3 3"]
) -> Float[Tensor, "*n 2"]:
    """Positions (x, y) moved by a homography; NaN where the third coordinate is not positive."""
    ones = torch.ones_like(pixels[..., :1])
    moved = torch.cat([pixels, ones], dim=-1) @ homography.mT
    last = moved[..., 2:]
    return moved[..., :2] / last.where(last > 0, torch.nan)


def matches_by_points(
    points2: Float[Tensor, "h w 3"], points1: Float[Tensor, "h1 w1 3"]
) -> Float[Tensor, "h w 2"]:
    """The pixel of view 1, as (x, y), whose point is nearest to the point of each pixel of view 2.

    Args:
        points2: View 2's pointmap.
        points1: View 1's pointmap, in the same frame and unit.

    Raises:
        Prob3rError: Scipy is not installed.
    """
    height, width, _ = points1.shape
    pixels = pixel_grid(height, width, dtype=points2.dtype, device=points2.device).flatten(0, 1)
    nearest = PointTree(points1.flatten(0, 1)).nearest(points2.flatten(0, 1)).rows
    return pixels[nearest].reshape(*points2.shape[:2], 2)


def matches_by_descriptors(
    descriptors2: Float[Tensor, "h w c"], descriptors1: Float[Tensor, "h1 w1 c"]
) -> Float[Tensor, "h w 2"]:
    """The pixel of view 1, as (x, y), whose descriptor is most similar to that of each in view 2.

    Similarity is the inner product.

    Args:
        descriptors2: Descriptors of view 2, of unit length.
        descriptors1: Descriptors of view 1, of unit length.
    """
    height, width, _ = descriptors1.shape
    pixels = pixel_grid(height, width, dtype=descriptors2.dtype, device=descriptors2.device)
    keys = descriptors1.flatten(0, 1).mT
    best = [(some @ keys).argmax(dim=-1) for some in descriptors2.flatten(0, 1).split(_AT_ONCE)]
    return pixels.flatten(0, 1)[torch.cat(best)].reshape(*descriptors2.shape[:2], 2)


class PixelPairs(NamedTuple):
    """Matching pixels of two views, as (x, y).

    Attributes:
        pixels1: In view 1.
        pixels2: In view 2.
    """

    pixels1: Float[Tensor, "k 2"]
    pixels2: Float[Tensor, "k 2"]


def reciprocal_matches(
    descriptors2: Float[Tensor, "h w c"], descriptors1: Float[Tensor, "h1 w1 c"], step: int = 1
) -> PixelPairs:
    """Pairs of pixels that are each other's match by `matches_by_descriptors`.

    Args:
        descriptors2: Descriptors of view 2, of unit length.
        descriptors1: Descriptors of view 1, of unit length.
        step: Only every `step`-th row and column of view 2 is matched, the first one being
            `step // 2`. Matches are looked for among all pixels of the other view.
    """
    height, width, _ = descriptors2.shape
    chosen = (slice(step // 2, None, step),) * 2
    grid = pixel_grid(height, width, dtype=descriptors2.dtype, device=descriptors2.device)
    start = grid[chosen].flatten(0, 1)
    there = matches_by_descriptors(descriptors2[chosen], descriptors1).flatten(0, 1)
    column, row = there.long().unbind(-1)
    back = matches_by_descriptors(descriptors1[row, column][None], descriptors2)[0]
    same = (back == start).all(-1)
    return PixelPairs(there[same], start[same])
