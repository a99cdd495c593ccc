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
"""Pixels of a view that curves are measured on, evenly spread: a rerun must answer at once."""

FEWEST_POINTS = 3  # that determine a pose and a scale

ROTATION, HEAD_ROTATION = "rotation_error", "head_rotation_error"
METRICS: Mapping[str, tuple[str, str]] = {
    ROTATION: ("Rotation of camera {view}", "°"),
    "translation_error": ("Direction to camera {view}", "°"),
    HEAD_ROTATION: ("Rotation of camera {view} by the head", "°"),
    "shape_error": ("Shape of view {view} (after Sim(3))", ""),
    "pointmap_error": ("Points of view {view}", ""),
}
"""What is measured, each with words and a unit; lengths are in the unit of the pair with view 1."""
CURVES = (ROTATION, "translation_error", HEAD_ROTATION, "shape_error")
"""Which of them are drawn beside the timeline."""


def title(metric: str, view: int | str) -> str:
    """Return what a metric is called, for a view or for `the views`."""
    words = METRICS[metric][0]
    if isinstance(view, int):
        return words.format(view=view)
    return words.replace("camera {view}", "the cameras").replace("view {view}", view)


@dataclass(frozen=True)
class Run:
    """What one run leaves behind to look at, at every step and in the views' joint unit.

    Attributes:
        steps: The trunk's sites in their order, then the output.
        points: All views' pointmaps at every step, in camera 1's frame.
        confidence: All views' confidence in the output.
        poses: Of all cameras at every step, as the pointmaps state them relative to the reference.
        head_poses: Of all cameras at every step, as the model's own camera head reads them after
            the last block that is done; None for a model without such a head.
        curves: By view, from view 2 on: its errors at every step, by the names of `METRICS`.
        final: All views' pointmaps in the output, at every pixel.
    """

    steps: Sequence[Step]
    points: tuple[Float[np.ndarray, "s _h _w 3"], ...]
    confidence: tuple[Float[np.ndarray, "_h _w"], ...]
    poses: Float[np.ndarray, "s v 4 4"]
    head_poses: Float[np.ndarray, "s v 4 4"] | None
    curves: Mapping[int, Mapping[str, Float[np.ndarray, " s"]]]
    final: Points

    def at(self, position: float) -> tuple[Float[np.ndarray, "_h _w 3"], ...]:
        """Return all views' pointmaps at a position between steps, moved along straight lines."""
        first, share = self.between(position)
        if share == 0:
            return tuple(points[first] for points in self.points)
        return tuple(
            (1 - share) * points[first] + share * points[first + 1] for points in self.points
        )

    def cameras(self, position: float, by_head: bool = False) -> Float[np.ndarray, "v 4 4"]:
        """Return all cameras' poses at a position between steps, each turned about one axis.

        Args:
            position: Where on the timeline.
            by_head: Whether as the camera head reads them.
        """
        import roma  # here, so that all that never turns a camera runs without roma

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
        """Return all cameras' poses at every step."""
        return self.head_poses if by_head and self.head_poses is not None else self.poses

    def between(self, position: float) -> tuple[int, float]:
        """Return the step before a position, and the share of the way to the next one."""
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

    The numbers are those of `Reference.errors`; the fit that they rest on is made for all steps
    together, which is many times faster, and gives the pose as well.
    """
    count, pair = len(steps.second), (0, view - 1)
    valid = [
        reference.valid[i].expand(count, -1, -1) & p.isfinite().all(dim=-1)
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
    """Return a reference on few enough pixels to measure at once, and which rows and columns."""
    pixels = max(p.shape[1] * p.shape[2] for p in reference.points)
    stride = ceil((pixels / MEASURED_PIXELS) ** 0.5)
    pick = slice(stride // 2, None, stride)
    points = tuple(p[:, pick, pick] for p in reference.points)
    valid = tuple(v[:, pick, pick] for v in reference.valid)
    return replace(reference, points=points, valid=valid), pick
