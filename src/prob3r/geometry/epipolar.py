"""Epipolar geometry of a pair: what two views of one point must satisfy, whatever its depth.

Matrices act as `x1^T F x2 = 0` on homogeneous pixel positions of view 1 and view 2, after Hartley
and Zisserman, "Multiple View Geometry", chapters 9 and 11.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def essential(pose2_to_1: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 3 3"]:
    """Essential matrices `[t]x R`, of which `x1^T E x2 = 0` on rays of the two cameras.

    Args:
        pose2_to_1: Motion that takes points from camera 2's frame to camera 1's.
    """
    translation = pose2_to_1[:, None, :3, 3].expand(-1, 3, -1)
    rows: Tensor = torch.linalg.cross(translation, pose2_to_1[:, :3, :3].mT)
    return rows.mT


def fundamental(
    essential: Float[Tensor, "b 3 3"],
    intrinsics1: Float[Tensor, "b 3 3"],
    intrinsics2: Float[Tensor, "b 3 3"],
) -> Float[Tensor, "b 3 3"]:
    """Fundamental matrices `K1^-T E K2^-1`, the same on pixel positions."""
    inverse1: Tensor = torch.linalg.inv(intrinsics1)
    inverse2: Tensor = torch.linalg.inv(intrinsics2)
    return inverse1.mT @ essential @ inverse2


def epipolar_distance(
    fundamental: Float[Tensor, "b 3 3"],
    pixels1: Float[Tensor, "b *n 2"],
    pixels2: Float[Tensor, "b *n 2"],
) -> Float[Tensor, " b *n"]:
    """Distance of view 1's positions to the epipolar lines of view 2's, in view 1's pixels."""
    product, line1, _ = _residuals(fundamental, pixels1, pixels2)
    length: Tensor = line1.norm(dim=-1)
    return product.abs() / length


def sampson_distance(
    fundamental: Float[Tensor, "b 3 3"],
    pixels1: Float[Tensor, "b *n 2"],
    pixels2: Float[Tensor, "b *n 2"],
) -> Float[Tensor, " b *n"]:
    """How far both positions together are from an exact match, to first order, in pixels.

    The square root of the Sampson error (Hartley and Zisserman, equation 11.9).
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
