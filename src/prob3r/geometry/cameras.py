"""Cameras: projection, intrinsics under crops and resizes, focal length, relative pose.

Conventions are those of `pointmaps`: OpenCV axes, integer pixel centres, no skew.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry.pointmaps import invert_rigid, pixel_grid

_SMALLEST_RESIDUAL = 1e-6  # pixels; bounds the Weiszfeld weight of a pixel that already fits
# Largest |x / z| and |y / z| that count; a point with z close to 0 would outweigh all others.
_STEEPEST_SLOPE = 10.0


def project(
    points: Float[Tensor, "b *n 3"], intrinsics: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b *n 2"]:
    """Pixel positions (x, y) of points in the camera's frame, in pixels.

    Points on or behind the camera's plane (z <= 0) have no image. Their position is NaN, so every
    comparison with it is false.
    """
    flat = points.reshape(points.shape[0], -1, 3)
    z = flat[..., 2:].where(flat[..., 2:] > 0, torch.nan)
    focal = torch.diagonal(intrinsics, dim1=-2, dim2=-1)[:, None, :2]
    pixels = focal * flat[..., :2] / z + intrinsics[:, None, :2, 2]
    return pixels.reshape(*points.shape[:-1], 2)


def crop_intrinsics(
    intrinsics: Float[Tensor, "b 3 3"], left: int | float, top: int | float
) -> Float[Tensor, "b 3 3"]:
    """Intrinsics of a crop whose first pixel is pixel (left, top) of the whole image."""
    cropped = intrinsics.clone()
    cropped[:, 0, 2] -= left
    cropped[:, 1, 2] -= top
    return cropped


def resize_intrinsics(
    intrinsics: Float[Tensor, "b 3 3"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float[Tensor, "b 3 3"]:
    """Intrinsics of a resized image.

    A resize stretches the image's edges, which lie half a pixel outside the outermost pixel
    centres: a position moves from x to (x + 0.5) * stretch - 0.5.

    Args:
        intrinsics: Of the image before the resize, in pixels.
        size: Height and width before the resize.
        new_size: Height and width after it.
    """
    resized = intrinsics.clone()
    for axis in (0, 1):
        stretch = new_size[1 - axis] / size[1 - axis]
        resized[:, axis, axis] *= stretch
        resized[:, axis, 2] = (intrinsics[:, axis, 2] + 0.5) * stretch - 0.5
    return resized


def focal_from_pointmap(
    points: Float[Tensor, "b h w 3"],
    weights: Float[Tensor, "b h w"] | None = None,
    principal_point: Float[Tensor, "b 2"] | None = None,
    *,
    iterations: int = 30,
) -> Float[Tensor, " b"]:
    """Focal length, in pixels, of the camera in whose own frame a pointmap is given.

    Minimises the weighted sum over pixels of `|u - f (x / z, y / z)|`, with `u` the pixel's
    position relative to the principal point, by Weiszfeld's iteratively reweighted least squares
    (the robust focal length of DUSt3R, Wang et al., CVPR 2024, section 3.3). The sum is convex in
    `f`, so the start does not matter. It is a sum of lengths, not of squares, so a minority of
    wrong points has little influence. The influence of a point grows with its slope: wrong points
    must not be much further off the axis than the corners of the image.

    Args:
        points: A pointmap in its own camera's frame, in any unit: view 1's, or view 2's after its
            pose is undone.
        weights: A weight for each pixel, for instance the confidence or a mask; all equal by
            default. Points with z <= 0 never count. Points more than 84 degrees off the axis,
            horizontally or vertically, never count either.
        principal_point: (x, y) in pixels; the centre of the image by default.
        iterations: Number of Weiszfeld steps.

    Returns:
        One focal length for both axes; NaN if no pixel counts.
    """
    b, height, width, _ = points.shape
    pixels = pixel_grid(height, width, dtype=points.dtype, device=points.device)
    if principal_point is None:
        principal_point = (pixels[-1, -1] / 2).expand(b, 2)
    if weights is None:
        weights = torch.ones_like(points[..., 2])
    offsets = (pixels - principal_point[:, None, None]).flatten(1, 2)
    slopes = points[..., :2] / points[..., 2:]
    counts = (points[..., 2] > 0) & (weights > 0) & (slopes.abs().amax(dim=-1) < _STEEPEST_SLOPE)
    weights = weights.where(counts, 0).flatten(1)
    slopes = slopes.where(counts[..., None], 0).flatten(1, 2)

    along, squared = (offsets * slopes).sum(dim=-1), slopes.square().sum(dim=-1)
    focal = (weights * along).sum(dim=-1) / (weights * squared).sum(dim=-1)
    for _ in range(iterations):
        residual = (offsets - focal[:, None, None] * slopes).norm(dim=-1)
        pull = weights / residual.detach().clamp_min(_SMALLEST_RESIDUAL)
        focal = (pull * along).sum(dim=-1) / (pull * squared).sum(dim=-1)
    return focal


def relative_pose(
    cam_to_world1: Float[Tensor, "b 4 4"], cam_to_world2: Float[Tensor, "b 4 4"]
) -> Float[Tensor, "b 4 4"]:
    """The motion that takes points from camera 2's frame to camera 1's."""
    return invert_rigid(cam_to_world1) @ cam_to_world2


def rotation_angle(rotation: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    """Angle of rotation matrices, in degrees from 0 to 180.

    The two-argument arctangent of sine (from the antisymmetric part) and cosine (from the trace)
    keeps full precision at both ends, where the arccosine of the trace loses half of the digits.
    """
    axis = torch.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        dim=-1,
    )
    trace = torch.diagonal(rotation, dim1=-2, dim2=-1).sum(dim=-1)
    return torch.rad2deg(torch.atan2(axis.norm(dim=-1), trace - 1))


def rotation_between(
    cam_to_world1: Float[Tensor, "b 4 4"], cam_to_world2: Float[Tensor, "b 4 4"]
) -> Float[Tensor, " b"]:
    """Angle, in degrees, between the orientations of two cameras."""
    return rotation_angle(relative_pose(cam_to_world1, cam_to_world2)[:, :3, :3])
