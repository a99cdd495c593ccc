"""Pointmaps: from depth, between frames, with a common scale, and in patches.

Frames are OpenCV's (x right, y down, z forward), depth is z and not the length of the ray, pixel
centres are at integer coordinates, and pixel positions are written (x, y). Intrinsics are pinhole
matrices without skew, `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`, in pixels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prob3r.errors import Prob3rError

_BEND = 0.01  # largest relative second difference of the inverse depth on one surface
_SMALLEST_FACTOR = 1e-8  # keeps the division finite if all valid points are at the origin


def pixel_grid(
    height: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "h w 2"]:
    """Positions (x, y) of all pixel centres, in pixels."""
    x = torch.arange(width, dtype=dtype, device=device)
    y = torch.arange(height, dtype=dtype, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def finite(points: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
    """Return which points are finite in every coordinate."""
    return points.isfinite().all(dim=-1)


def unproject(
    depth: Float[Tensor, "b h w"], intrinsics: Float[Tensor, "b 3 3"]
) -> Float[Tensor, "b h w 3"]:
    """Points of all pixels in the camera's own frame, in the unit of the depth.

    Args:
        depth: z of every pixel. Values that are not valid pass through as they are.
        intrinsics: Pinhole matrices of the same image size, in pixels.
    """
    height, width = depth.shape[-2:]
    pixels = pixel_grid(height, width, dtype=depth.dtype, device=depth.device)
    focal = torch.diagonal(intrinsics, dim1=-2, dim2=-1)[:, None, None, :2]
    centre = intrinsics[:, None, None, :2, 2]
    z = depth[..., None]
    return torch.cat([(pixels - centre) / focal * z, z], dim=-1)


def transform(
    points: Float[Tensor, "b *n 3"], matrix: Float[Tensor, "b 4 4"]
) -> Float[Tensor, "b *n 3"]:
    """Points mapped by a 4x4 affine matrix, for instance to the world's frame by `cam_to_world`."""
    flat = points.reshape(points.shape[0], -1, 3)
    return (flat @ matrix[:, :3, :3].mT + matrix[:, None, :3, 3]).reshape(points.shape)


def invert_rigid(matrix: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 4 4"]:
    """Inverse of rigid motions, by the transpose of the rotation."""
    rotation = matrix[:, :3, :3].mT
    translation = -rotation @ matrix[:, :3, 3:]
    return torch.cat([torch.cat([rotation, translation], dim=-1), matrix[:, 3:]], dim=-2)


def norm_factor(
    points: Sequence[Float[Tensor, "b _ _ 3"]], valid: Sequence[Bool[Tensor, "b _ _"]]
) -> Float[Tensor, " b"]:
    """Mean distance to the origin of the valid points of all views together.

    This is the scale that DUSt3R divides a pair by (Wang et al., CVPR 2024, eq. 3).

    Args:
        points: One pointmap for each view, all in camera 1's frame.
        valid: One mask for each pointmap. The values at other pixels have no influence, even if
            they are not finite.

    Returns:
        The factor of each scene, always positive, in the unit of the points; 1 for a scene without
        a valid point.

    Raises:
        Prob3rError: There is no pointmap, or the numbers of pointmaps and masks differ.
    """
    if len(points) != len(valid) or not points:
        raise Prob3rError(
            f"`points` holds {len(points)} pointmaps and `valid` {len(valid)} masks; "
            "give one mask for each of at least one pointmap"
        )
    total = sum(
        p.masked_fill(~v[..., None], 0).norm(dim=-1).sum(dim=(1, 2))
        for p, v in zip(points, valid, strict=True)
    )
    count = torch.stack([v.sum(dim=(1, 2)) for v in valid]).sum(dim=0)
    mean = total / count.clamp_min(1)
    return torch.where(count > 0, mean.clamp_min(_SMALLEST_FACTOR), torch.ones_like(mean))


def normalise(
    points: Sequence[Float[Tensor, "b _ _ 3"]], valid: Sequence[Bool[Tensor, "b _ _"]]
) -> list[Float[Tensor, "b _ _ 3"]]:
    """Pointmaps of all views divided by their common `norm_factor`; raises as `norm_factor`."""
    factor = norm_factor(points, valid)[:, None, None, None]
    return [p / factor for p in points]


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of the patches of an image.

    Raises:
        Prob3rError: If the image is not a whole number of patches.
    """
    if patch < 1 or height % patch or width % patch:
        raise Prob3rError(
            f"an image of {height}x{width} pixels is not a whole number of patches of {patch}; "
            "give a patch size that divides both sides"
        )
    return height // patch, width // patch


def central_pixels(maps: Shaped[Tensor, "b h w *c"], patch: int) -> Shaped[Tensor, "b r s *c"]:
    """Values at the central pixel of every patch: a map with one value a patch.

    The central pixel is `patch // 2` pixels from the left and the upper edge of its patch. If the
    side of a patch is even, this is the pixel to the right of the middle and below it.
    """
    middle = slice(patch // 2, None, patch)
    return maps[:, middle, middle]


def patch_centres(
    rows: int,
    cols: int,
    patch: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "n 2"]:
    """Pixel positions (x, y) of the middles of all patches, row by row.

    If the side of a patch is even, its middle lies between pixels: (3.5, 3.5) for the first patch
    of side 8.
    """
    cells = pixel_grid(rows, cols, dtype=dtype, device=device)
    return (cells * patch + (patch - 1) / 2).flatten(0, 1)


def patch_of_pixels(
    pixels: Float[Tensor, "*n 2"], rows: int, cols: int, patch: int
) -> tuple[Int[Tensor, "*n"], Bool[Tensor, "*n"]]:
    """The patch that holds each pixel position, and whether the position lies in the image.

    A pixel covers half a pixel on each side of its centre, so the image reaches from -0.5 to
    the width minus 0.5.

    Args:
        pixels: Positions (x, y) in pixels.
        rows: Rows of patches in the image.
        cols: Columns of patches in the image.
        patch: Side of a patch in pixels.

    Returns:
        The index of the patch, counted row by row, and a mask of the positions in the image. A
        position outside has the index of the nearest patch. A coordinate that is not finite
        counts as 0.
    """
    cells = ((pixels + 0.5) / patch).floor()
    limit = torch.tensor([cols, rows], dtype=pixels.dtype, device=pixels.device)
    inside = ((cells >= 0) & (cells < limit)).all(dim=-1)
    column, row = torch.minimum(cells.nan_to_num(0, 0, 0).clamp_min(0), limit - 1).long().unbind(-1)
    return row * cols + column, inside


def patchify(pixels: Float[Tensor, "b h w c"], patch: int) -> Float[Tensor, "b n p2 c"]:
    """Cut a map into patches: row by row over the image, and row by row inside each patch.

    Raises:
        Prob3rError: If the map is not a whole number of patches.
    """
    b, height, width, channels = pixels.shape
    rows, cols = patch_grid(height, width, patch)
    cells = pixels.reshape(b, rows, patch, cols, patch, channels).transpose(2, 3)
    return cells.reshape(b, rows * cols, patch * patch, channels)


def unpatchify(
    patches: Float[Tensor, "b n p2 c"], height: int, width: int
) -> Float[Tensor, "b {height} {width} c"]:
    """Put patches together to a map: the inverse of `patchify`.

    Raises:
        Prob3rError: If the patches are not square or do not fill the image.
    """
    b, n, area, channels = patches.shape
    patch = round(area**0.5)
    rows, cols = patch_grid(height, width, patch)
    if patch * patch != area or rows * cols != n:
        raise Prob3rError(
            f"{n} patches of {area} pixels don't fill {height}x{width} pixels; "
            "give square patches that do"
        )
    cells = patches.reshape(b, rows, cols, patch, patch, channels).transpose(2, 3)
    return cells.reshape(b, height, width, channels)


def mean_depth(
    points: Sequence[Float[Tensor, "b _h _w 3"]], valid: Sequence[Bool[Tensor, "b _h _w"]]
) -> Float[Tensor, " b"]:
    """Return the mean depth of the valid points of all views together, scene by scene.

    It is NaN for a scene without a valid point.

    Args:
        points: Pointmaps, each in its own camera's frame, in one unit.
        valid: A mask of the points that count, for each pointmap.
    """
    totals = [
        p[..., 2].masked_fill(~v, 0).sum(dim=(1, 2)) for p, v in zip(points, valid, strict=True)
    ]
    counts = [v.sum(dim=(1, 2)) for v in valid]
    return torch.stack(totals).sum(0) / torch.stack(counts).sum(0)


def normal_map(
    points: Float[Tensor, "b h w 3"], valid: Bool[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b h w 3"], Bool[Tensor, "b h w"]]:
    """Unit normals of the surfaces in a pointmap, directed towards the camera.

    The normal of a pixel is perpendicular to the line through its two neighbours in its row and to
    the line through its two neighbours in its column. It is known if the pixel and the four
    neighbours are valid and no depth edge lies between them. The test for an edge uses the inverse
    depth, which is linear on a plane of any slope: its second difference along the row and along
    the column must be less than 1 % of its value.

    Args:
        points: Pointmap in the frame of the camera that saw it.
        valid: A mask of the points that count.

    Returns:
        The normals in the camera's frame, zero where they are unknown, and a mask of the pixels
        whose normal is known. The normals of border pixels are never known.
    """
    normals, known = torch.zeros_like(points), torch.zeros_like(valid)
    inner = slice(1, -1)
    left, right = points[:, inner, :-2], points[:, inner, 2:]
    above, below = points[:, :-2, inner], points[:, 2:, inner]
    found = torch.linalg.cross(right - left, below - above)
    found = torch.nn.functional.normalize(found, dim=-1)
    middle = points[:, inner, inner]
    away = (found * middle).sum(-1, keepdim=True) > 0
    normals[:, inner, inner] = torch.where(away, -found, found)
    z = points[..., 2].where(valid & (points[..., 2] > 0), torch.nan)
    centre = z[:, inner, inner]
    across = centre / z[:, inner, :-2] + centre / z[:, inner, 2:] - 2
    along = centre / z[:, :-2, inner] + centre / z[:, 2:, inner] - 2
    known[:, inner, inner] = (across.abs() < _BEND) & (along.abs() < _BEND)
    return normals.where(known[..., None], 0), known
