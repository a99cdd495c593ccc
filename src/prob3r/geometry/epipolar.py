"""Epipolar geometry of a pair: the constraint on the images of one point, at any depth.

The constraint is `x1^T F x2 = 0` for homogeneous pixel positions of view 1 and view 2 (Hartley and
Zisserman, "Multiple View Geometry", chapters 9 and 11).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def essential(pose2_to_1: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 3 3"]:
    """Essential matrices `E = [t]x R`: `x1^T E x2 = 0` for rays of cameras 1 and 2 to one point.

    Args:
        pose2_to_1: Rigid motion that takes points from camera 2's frame to camera 1's.
    """
    translation = pose2_to_1[:, None, :3, 3].expand(-1, 3, -1)
    rows: Tensor = torch.linalg.cross(translation, pose2_to_1[:, :3, :3].mT)
    return rows.mT


def fundamental(
    essential: Float[Tensor, "b 3 3"],
    intrinsics1: Float[Tensor, "b 3 3"],
    intrinsics2: Float[Tensor, "b 3 3"],
) -> Float[Tensor, "b 3 3"]:
    """Fundamental matrices `F = K1^-T E K2^-1`: the same constraint for pixel positions."""
    inverse1: Tensor = torch.linalg.inv(intrinsics1)
    inverse2: Tensor = torch.linalg.inv(intrinsics2)
    return inverse1.mT @ essential @ inverse2


def epipolar_distance(
    fundamental: Float[Tensor, "b 3 3"],
    pixels1: Float[Tensor, "b *n 2"],
    pixels2: Float[Tensor, "b *n 2"],
) -> Float[Tensor, " b *n"]:
    """Distances in view 1 from pixel positions to the epipolar lines of their matches.

    Args:
        fundamental: Of both views; see `fundamental`.
        pixels1: Positions (x, y) in view 1, in pixels.
        pixels2: Their matches (x, y) in view 2, in pixels.

    Returns:
        Distances in pixels of view 1.
    """
    product, line1, _ = _residuals(fundamental, pixels1, pixels2)
    length: Tensor = line1.norm(dim=-1)
    return product.abs() / length


def sampson_distance(
    fundamental: Float[Tensor, "b 3 3"],
    pixels1: Float[Tensor, "b *n 2"],
    pixels2: Float[Tensor, "b *n 2"],
) -> Float[Tensor, " b *n"]:
    """Sampson distance of matches, in pixels; arguments as in `epipolar_distance`.

    To first order, this is the length of the smallest move of both positions together that makes
    them satisfy the constraint. It is the square root of the Sampson error (Hartley and Zisserman,
    equation 11.9).
    """
    product, line1, line2 = _residuals(fundamental, pixels1, pixels2)
    length: Tensor = torch.cat([line1, line2], dim=-1).norm(dim=-1)
    return product.abs() / length


def _residuals(
    fundamental: Float[Tensor, "b 3 3"],
    pixels1: Float[Tensor, "b *n 2"],
    pixels2: Float[Tensor, "b *n 2"],
) -> tuple[Float[Tensor, " b *n"], Float[Tensor, " b *n 2"], Float[Tensor, " b *n 2"]]:
    """`x1^T F x2`, and the normals of the epipolar lines in view 1 and in view 2."""
    one = torch.ones_like(pixels1[..., :1])
    x1, x2 = torch.cat([pixels1, one], dim=-1), torch.cat([pixels2, one], dim=-1)
    line1 = torch.einsum("bij,b...j->b...i", fundamental, x2)
    line2 = torch.einsum("bij,b...i->b...j", fundamental, x1)
    return (x1 * line1).sum(dim=-1), line1[..., :2], line2[..., :2]
