"""Matches of view 2's patches in view 1, by features and by pointmaps, and their errors."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import PixelMatches, patchify


def by_features(
    features2: Float[Tensor, "b n d"], features1: Float[Tensor, "b m d"]
) -> Int[Tensor, "b n"]:
    """Return the patch of view 1 whose feature has the greatest cosine with each of view 2's."""
    one, other = (F.normalize(features, dim=-1) for features in (features1, features2))
    return (other @ one.mT).argmax(-1)


def by_points(
    points2: Float[Tensor, "b h w 3"], points1: Float[Tensor, "b h1 w1 3"], patch: int
) -> Int[Tensor, "b n"]:
    """Return the patch of view 1 whose mean point is nearest to that of each patch of view 2.

    Args:
        points2: The pointmap of view 2 in camera 1's frame.
        points1: The pointmap of view 1 in the same frame and unit.
        patch: Side of a patch, in pixels.
    """
    one, other = (patchify(points, patch).mean(2) for points in (points1, points2))
    return torch.cdist(other, one).argmin(-1)


def pixels_off(
    found: Int[Tensor, "b n"], truth: PixelMatches, columns: int, patch: int
) -> Float[Tensor, " b"]:
    """Return the mean distance, in pixels, from the centre of the found patch to the true match.

    The mean is over the patches of view 2 that view 1 sees; NaN where it sees none.

    Args:
        found: The patch of view 1 for each patch of view 2.
        truth: True matches of the central pixels of view 2's patches; see
            `geometry.central_matches`.
        columns: Number of columns of view 1's patches.
        patch: Side of a patch, in pixels.
    """
    corner = torch.stack([found % columns, found // columns], -1) * patch
    off = (corner + (patch - 1) / 2 - truth.pixels.flatten(1, 2)).norm(dim=-1)
    seen = truth.visible.flatten(1)
    total: Tensor = off.masked_fill(~seen, 0).sum(1)
    return total / seen.sum(1)
