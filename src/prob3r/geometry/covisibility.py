"""Covisibility at low resolution: the share of one view's surface that another view sees.

For many pairs of frames, full resolution takes much more time and adds little accuracy.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.geometry.matches import MatchTruth, overlap
from prob3r.geometry.pointmaps import invert_rigid, transform, unproject

LONGEST = 96
"""Largest number of pixels along the longer side of a coarse depth map."""

GRID = (24, 32)
"""Largest number of points that are looked up, along the height and along the width."""


class CoarseView(NamedTuple):
    """Views at low resolution, for covisibility.

    Attributes:
        depth: z depth at every few pixels of a view; 0 where unknown.
        intrinsics: Intrinsics in pixels of that depth map.
        world_to_cam: The inverse of the cameras' poses.
        points: Points at a grid of pixels, in the world's frame.
        known: Whether the depth at those pixels is known.
    """

    depth: Float[Tensor, "b h w"]
    intrinsics: Float[Tensor, "b 3 3"]
    world_to_cam: Float[Tensor, "b 4 4"]
    points: Float[Tensor, "b rows columns 3"]
    known: Bool[Tensor, "b rows columns"]

    @classmethod
    def of(
        cls,
        depth: Float[Tensor, "b h w"],
        intrinsics: Float[Tensor, "b 3 3"],
        cam_to_world: Float[Tensor, "b 4 4"],
        grid: tuple[int, int] = GRID,
    ) -> "CoarseView":
        """Return views at low resolution.

        Args:
            depth: z depth; 0 where unknown.
            intrinsics: In pixels of `depth`.
            cam_to_world: Poses in a frame that all views share.
            grid: Largest number of points to look up, along the height and along the width.
        """
        height, width = depth.shape[1:]
        rows, columns = (
            torch.linspace(0, side - 1, min(side, steps), device=depth.device).round().long()
            for side, steps in zip((height, width), grid, strict=True)
        )
        world = transform(unproject(depth, intrinsics), cam_to_world)
        stride = -(-max(height, width) // LONGEST)
        # Pixel x of the coarse map is exactly pixel x * stride of the whole map.
        scale = intrinsics.new_tensor([1 / stride, 1 / stride, 1])[:, None]
        return cls(
            depth=depth[:, ::stride, ::stride],
            intrinsics=intrinsics * scale,
            world_to_cam=invert_rigid(cam_to_world),
            points=world[:, rows[:, None], columns],
            known=(depth > 0)[:, rows[:, None], columns],
        )

    def take(self, rows: Int[Tensor, " n"]) -> "CoarseView":
        """Return the views in these rows of the batch."""
        return CoarseView(*(t[rows] for t in self))


def seen_share(viewer: CoarseView, shown: CoarseView) -> Float[Tensor, " b"]:
    """Return the share of the known points of each view that another view sees.

    Args:
        viewer: The views that see, one for each row of `shown`.
        shown: The views whose points are seen or not.

    Returns:
        Shares from 0 to 1; 0 for a view without a known point.
    """
    local = transform(shown.points, viewer.world_to_cam)
    truth = MatchTruth(local, shown.known, viewer.depth, viewer.depth > 0, viewer.intrinsics)
    return overlap(truth)
