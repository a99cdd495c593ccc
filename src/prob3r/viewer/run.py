"""One run of a model over a scene, as the viewer shows it: arrays, poses and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    finite,
    invert_rigid,
    mean_depth,
    norm_factor,
    normalise,
    pointmap_error,
    pose_from_pointmap,
    rotation_error,
    transform,
    translation_error,
)
from prob3r.measures.reference import Points, Reference
from prob3r.measures.steps import Step

MEASURED_PIXELS = 1200
"""Number of pixels of a view for curves, evenly spread; few, so that a rerun is fast."""

FEWEST_POINTS = 3  # fewer points do not determine a pose and a scale

ROTATION, HEAD_ROTATION = "rotation_error", "head_rotation_error"
METRICS: Mapping[str, tuple[str, str]] = {
    ROTATION: ("Rotation of camera {view}", "°"),
    "translation_error": ("Direction to camera {view}", "°"),
    HEAD_ROTATION: ("Rotation of camera {view} by the head", "°"),
    "shape_error": ("Shape of view {view} (after Sim(3))", ""),
    "pointmap_error": ("Points of view {view}", ""),
}
"""The metrics, each with its words and unit; lengths are in the unit of the pair with view 1."""
CURVES = (ROTATION, "translation_error", HEAD_ROTATION, "shape_error")
"""Which of them are drawn beside the timeline."""


def title(metric: str, view: int | str) -> str:
    """Return the title of a metric, for a view or for `the views`."""
    words = METRICS[metric][0]
    if isinstance(view, int):
        return words.format(view=view)
    return words.replace("camera {view}", "the cameras").replace("view {view}", view)


@dataclass(frozen=True)
class Run:
    """The data of one run that the viewer shows, at every step; lengths are in the joint unit.

    Attributes:
        steps: The trunk's sites in their order, then the output.
        points: Pointmaps of all views at every step, in camera 1's frame.
        confidence: Confidence of all views in the output.
        poses: Poses of all cameras at every step, from the pointmaps relative to the reference.
        head_poses: Poses of all cameras at every step, from the model's own camera head at the last
            finished block; None for a model without such a head.
        curves: By view, from view 2 on: its errors at every step, by the names of `METRICS`.
        final: Pointmaps of all views in the output, at every pixel.
    """

    steps: Sequence[Step]
    points: tuple[Float[np.ndarray, "s _h _w 3"], ...]
    confidence: tuple[Float[np.ndarray, "_h _w"], ...]
    poses: Float[np.ndarray, "s v 4 4"]
    head_poses: Float[np.ndarray, "s v 4 4"] | None
    curves: Mapping[int, Mapping[str, Float[np.ndarray, " s"]]]
    final: Points

    def at(self, position: float) -> tuple[Float[np.ndarray, "_h _w 3"], ...]:
        """Return the pointmaps of all views at a position, interpolated linearly between steps."""
        first, share = self.between(position)
        if share == 0:
            return tuple(points[first] for points in self.points)
        return tuple(
            (1 - share) * points[first] + share * points[first + 1] for points in self.points
        )

    def cameras(self, position: float, by_head: bool = False) -> Float[np.ndarray, "v 4 4"]:
        """Return the poses of all cameras at a position, interpolated between steps.

        Each rotation is interpolated about one axis.

        Args:
            position: The position on the timeline, in steps.
            by_head: Whether to use the poses of the camera head.
        """
        import roma  # imported here, because most runs do not need roma

        path = self.path(by_head)
        first, share = self.between(position)
        if share == 0:
            return path[first]
        start, end = torch.from_numpy(path[first : first + 2])
        turn = roma.rotmat_to_rotvec(start[:, :3, :3].mT @ end[:, :3, :3])
        poses = start + share * (end - start)
        poses[:, :3, :3] = start[:, :3, :3] @ roma.rotvec_to_rotmat(share * turn)
        return poses.numpy()

    def path(self, by_head: bool = False) -> Float[np.ndarray, "s v 4 4"]:
        """Return the poses of all cameras at every step; with `by_head`, those of the head."""
        return self.head_poses if by_head and self.head_poses is not None else self.poses

    def between(self, position: float) -> tuple[int, float]:
        """Return the step before a position, and the fraction of the step to the next one."""
        last = len(self.steps) - 1
        first = min(max(int(position), 0), last)
        return first, 0.0 if first == last else position - first


class PairSteps(NamedTuple):
    """The pointmaps of view 1 and of another view at several steps, each step in its own unit."""

    first: Float[Tensor, "s h1 w1 3"]
    second: Float[Tensor, "s h2 w2 3"]


def measure(
    steps: PairSteps, reference: Reference, view: int = 2
) -> tuple[dict[str, Float[Tensor, " s"]], Float[Tensor, "s 4 4"]]:
    """Return a view's errors, and its pose in the unit of the steps, at many steps at once.

    The errors are those of `Reference.errors`. The similarity is fitted for all steps together,
    which is many times faster, and it gives the pose as well.
    """
    count, pair = len(steps.second), (0, view - 1)
    valid = [
        reference.valid[i].expand(count, -1, -1) & finite(p)
        for i, p in zip(pair, steps, strict=True)
    ]
    truths = [reference.points[i].expand(count, -1, -1, -1) for i in pair]
    own_unit = norm_factor(steps, valid)
    _, predicted = normalise(steps, valid)
    unit = norm_factor(truths, valid)
    first, second = (p / unit[:, None, None, None] for p in truths)
    pose = reference.pose(view).repeat(count, 1, 1)
    pose[:, :3, 3] /= unit[:, None]
    local = transform(second, invert_rigid(pose))
    fit = pose_from_pointmap(local, predicted, valid[1])
    depth = mean_depth((first, local), valid)
    errors = {
        ROTATION: rotation_error(fit.rotation, pose[:, :3, :3]),
        "translation_error": translation_error(fit.translation, pose[:, :3, 3], depth),
        "shape_error": pointmap_error(predicted, fit.apply(local), valid[1]),
        "pointmap_error": pointmap_error(predicted, second, valid[1]),
    }
    poses = torch.eye(4).to(pose).repeat(count, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = fit.rotation, fit.translation * own_unit[:, None]
    determined = valid[1].sum((1, 2)) >= FEWEST_POINTS
    return {name: e.where(determined, torch.nan) for name, e in errors.items()}, poses


def thinned(reference: Reference) -> tuple[Reference, slice]:
    """Return a reference on fewer pixels, so that measuring is fast, and the slice of both axes."""
    pixels = max(p.shape[1] * p.shape[2] for p in reference.points)
    stride = ceil((pixels / MEASURED_PIXELS) ** 0.5)
    pick = slice(stride // 2, None, stride)
    points = tuple(p[:, pick, pick] for p in reference.points)
    valid = tuple(v[:, pick, pick] for v in reference.valid)
    return replace(reference, points=points, valid=valid), pick
