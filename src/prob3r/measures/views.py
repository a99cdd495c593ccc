"""How the views of a scene relate: their attention, their features and their geometry."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import central_pixels, invert_rigid, patch_of_pixels, project, transform
from prob3r.measures.attention import AttentionRecords
from prob3r.measures.reconstruction import TOLERANCE, EstimatedCameras
from prob3r.measures.reference import Points
from prob3r.runs.trace import Trace

POOR_FIT = 0.5
"""A view disagrees with the others if its fit is under this share of their median fit."""


@dataclass(frozen=True)
class ViewRelations:
    """How the views of a scene relate in one run. Rows and columns are views, in their order.

    Attributes:
        blocks: Numbers of the blocks with attention between views.
        attention: Entry (block, i, j): the share of view i's attention that falls on the patches
            of view j, in the mean over the heads and over view i's patches. A row sums to less
            than one where special tokens take the rest.
        overlap: Entry (i, j): the share of view i's patches that view j sees too, by the output's
            pointmaps. See `overlaps`.
        conflict: Entry (i, j): the share of view i's patches that lie in front of the surface that
            view j shows. See `overlaps`.
        fit: How well each view fits the others, from 0 to 1. See `fit`.
        similarity: Entry (i, j): the similarity of the patches of view i to those of view j, by
            their features at the end of the last of these blocks. See `features.best_cosines`.
    """

    blocks: list[int]
    attention: list[list[list[float]]]
    overlap: list[list[float]]
    conflict: list[list[float]]
    fit: list[float]
    similarity: list[list[float]]

    @classmethod
    def of(
        cls,
        blocks: list[int],
        attention: Float[Tensor, "blocks v v"],
        similarity: Float[Tensor, "v v"],
        points: Points,
        cameras: EstimatedCameras,
        patch: int,
    ) -> "ViewRelations":
        """Return the relations of the views of one scene.

        Args:
            blocks: Numbers of the blocks with attention between views.
            attention: The share of each view's attention on each view, block by block.
            similarity: The similarity of the patches of each view to those of each view, after the
                last block.
            points: The output's pointmaps in camera 1's frame.
            cameras: The cameras of the same output, in the same unit.
            patch: Side of a patch, in pixels.
        """
        overlap, conflict = overlaps(points, cameras, patch)
        share = fit(overlap, conflict)
        numbers = (attention, overlap, conflict, share, similarity)
        return cls(blocks, *(tensor.tolist() for tensor in numbers))

    @classmethod
    def of_run(
        cls,
        records: AttentionRecords,
        run: Trace,
        points: Points,
        cameras: EstimatedCameras,
        patch: int,
    ) -> "ViewRelations":
        """Return the relations of the views of one scene, from a run with `records` recorded.

        The arguments `points`, `cameras` and `patch` are those of `of`.
        """
        blocks = [place.block or 0 for place in records.places]
        attention, similarity = records.by_view(run), records.similarity(run)
        return cls.of(blocks, attention, similarity, points, cameras, patch)


def overlaps(
    points: Points, cameras: EstimatedCameras, patch: int
) -> tuple[Float[Tensor, "v v"], Float[Tensor, "v v"]]:
    """Return how the pointmap of every view agrees with that of every other view.

    A patch stands for the point at its central pixel. The point is compared with the surface that
    the other view's own pointmap has at its projection. The patch overlaps with the other view if
    the depths agree up to `reconstruction.TOLERANCE`. It is in conflict with the other view if the
    point is nearer than that, because then the other view should have seen it. A point behind the
    surface is hidden, and counts as neither.

    Args:
        points: All views' pointmaps in camera 1's frame.
        cameras: The cameras of the same output, in the same unit.
        patch: Side of a patch, in pixels.

    Returns:
        Entry (i, j): the share of view i's patches that overlap with view j, and the share that is
        in conflict with it. NaN on the diagonal, and where view j's camera was not found.
    """
    count = len(points)
    overlap, conflict = torch.full((2, count, count), torch.nan)
    known = [j for j in range(count) if j == 0 or cameras.inliers[j] is not None]
    for j in known:
        to_camera = invert_rigid(cameras.poses[:, j])
        surface = transform(points[j], to_camera)[0, ..., 2]
        rows, columns = surface.shape
        for i in range(count):
            if i == j:
                continue
            local = transform(central_pixels(points[i], patch), to_camera)
            pixels = project(local, cameras.intrinsics[j][None])
            pixel, inside = patch_of_pixels(pixels, rows, columns, 1)
            ratio = local[..., 2] / surface.flatten()[pixel]
            overlap[i, j] = (inside & ((ratio - 1).abs() <= TOLERANCE)).float().mean()
            conflict[i, j] = (inside & (ratio < 1 - TOLERANCE)).float().mean()
    return overlap, conflict


def fit(overlap: Float[Tensor, "v v"], conflict: Float[Tensor, "v v"]) -> Float[Tensor, " v"]:
    """Return how well each view fits the others, from 0 to 1.

    It is the sum of a view's overlaps with all others, in both directions, divided by the sum of
    its overlaps and conflicts. It is NaN for a view that has neither.
    """
    seen, wrong = (m.nan_to_num(0).sum(0) + m.nan_to_num(0).sum(1) for m in (overlap, conflict))
    return seen / (seen + wrong)


def disagreeing(fit: Sequence[float]) -> int | None:
    """Return the number of the view that disagrees with the rest, from 1; None if none does.

    It is the view with the least fit, if that is under `POOR_FIT` of the median fit of the others.
    Two views alone cannot tell which of them is wrong.

    Args:
        fit: How well each view fits the others; see `fit`.
    """
    known = {view: value for view, value in enumerate(fit, 1) if isfinite(value)}
    if len(known) < 3:
        return None
    least = min(known, key=lambda view: known[view])
    others = [value for view, value in known.items() if view != least]
    return least if known[least] < POOR_FIT * median(others) else None
