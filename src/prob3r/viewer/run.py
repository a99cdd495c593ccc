"""One run of a model over a pair, as the viewer looks at it: arrays, poses and curves."""

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
    norm_factor,
    normalise,
    pointmap_error,
    pose_from_pointmap,
    rotation_error,
    transform,
    translation_error,
)
from prob3r.measures.reference import Reference
from prob3r.measures.steps import Step

MEASURED_PIXELS = 1200
"""Pixels of a view that curves are measured on, evenly spread: a rerun must answer at once."""

FEWEST_POINTS = 3  # that determine a pose and a scale

METRICS: Mapping[str, tuple[str, str]] = {
    "rotation_error": ("Rotation of camera 2", "°"),
    "translation_error": ("Direction to camera 2", "°"),
    "inner_shape_error": ("Shape of view 2 (after Sim(3))", ""),
    "pointmap_error": ("Points of view 2", ""),
}
"""What is measured, each with words and a unit; lengths are in the pair's unit."""
CURVES = ("rotation_error", "translation_error", "inner_shape_error")
"""Which of them are drawn beside the timeline."""


@dataclass(frozen=True)
class Run:
    """What one run leaves behind to look at, at every step and in the pair's unit.

    Attributes:
        steps: The decoders' sites in their order, then the output.
        points: Both views' pointmaps at every step, in camera 1's frame.
        confidence: Both views' confidence in the output.
        poses: Of camera 2 at every step, as its pointmap states them relative to the reference.
        curves: Errors of view 2 at every step, by the names of `METRICS`.
    """

    steps: Sequence[Step]
    points: tuple[Float[np.ndarray, "s h1 w1 3"], Float[np.ndarray, "s h2 w2 3"]]
    confidence: tuple[Float[np.ndarray, "h1 w1"], Float[np.ndarray, "h2 w2"]]
    poses: Float[np.ndarray, "s 4 4"]
    curves: Mapping[str, Float[np.ndarray, " s"]]

    def at(self, position: float) -> tuple[Float[np.ndarray, "h1 w1 3"], ...]:
        """Return both views' pointmaps at a position between steps, moved along straight lines."""
        first, share = self.between(position)
        if share == 0:
            return self.points[0][first], self.points[1][first]
        return tuple(
            (1 - share) * points[first] + share * points[first + 1] for points in self.points
        )

    def pose(self, position: float) -> Float[np.ndarray, "4 4"]:
        """Return camera 2's pose at a position between steps, turned about one axis."""
        import roma  # here, so that all that never turns a camera runs without roma

        first, share = self.between(position)
        if share == 0:
            return self.poses[first]
        start, end = torch.from_numpy(self.poses[first : first + 2])
        turn = roma.rotmat_to_rotvec(start[:3, :3].mT @ end[:3, :3])
        pose = start + share * (end - start)
        pose[:3, :3] = start[:3, :3] @ roma.rotvec_to_rotmat(share * turn)
        return pose.numpy()

    def between(self, position: float) -> tuple[int, float]:
        """Return the step before a position, and the share of the way to the next one."""
        last = len(self.steps) - 1
        first = min(max(int(position), 0), last)
        return first, 0.0 if first == last else position - first


class Steps(NamedTuple):
    """Both views' pointmaps at several steps, one a row, each in a unit of its own."""

    first: Float[Tensor, "s h1 w1 3"]
    second: Float[Tensor, "s h2 w2 3"]


def measure(
    steps: Steps, reference: Reference
) -> tuple[dict[str, Float[Tensor, " s"]], Float[Tensor, "s 4 4"]]:
    """Return view 2's errors, and its pose in the pair's unit, at many steps at once.

    The numbers are those of `Reference.errors`; the fit that they rest on is made for all steps
    together, which is many times faster, and gives the pose as well.
    """
    count = len(steps.second)
    valid = [
        v.expand(count, -1, -1) & p.isfinite().all(dim=-1)
        for v, p in zip(reference.valid, steps, strict=True)
    ]
    truths = [p.expand(count, -1, -1, -1) for p in reference.points]
    _, predicted = normalise(steps, valid)
    unit = norm_factor(truths, valid)
    first, second = (p / unit[:, None, None, None] for p in truths)
    pose = reference.pose(2).repeat(count, 1, 1)
    pose[:, :3, 3] /= unit[:, None]
    local = transform(second, invert_rigid(pose))
    fit = pose_from_pointmap(local, predicted, valid[1])
    depths = torch.cat([p[..., 2].flatten(1) for p in (first, local)], dim=1)
    seen = torch.cat([v.flatten(1) for v in valid], dim=1)
    depth = (depths.masked_fill(~seen, 0)).sum(1) / seen.sum(1)
    errors = {
        "rotation_error": rotation_error(fit.rotation, pose[:, :3, :3]),
        "translation_error": translation_error(fit.translation, pose[:, :3, 3], depth),
        "inner_shape_error": pointmap_error(predicted, fit.apply(local), valid[1]),
        "pointmap_error": pointmap_error(predicted, second, valid[1]),
    }
    poses = torch.eye(4).to(pose).repeat(count, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = fit.rotation, fit.translation
    determined = valid[1].sum((1, 2)) >= FEWEST_POINTS
    return {name: e.where(determined, torch.nan) for name, e in errors.items()}, poses


def thinned(reference: Reference) -> tuple[Reference, slice]:
    """Return a reference on few enough pixels to measure at once, and which rows and columns."""
    pixels = max(p.shape[1] * p.shape[2] for p in reference.points)
    stride = ceil((pixels / MEASURED_PIXELS) ** 0.5)
    pick = slice(stride // 2, None, stride)
    (first, second), (valid1, valid2) = reference.points, reference.valid
    points = first[:, pick, pick], second[:, pick, pick]
    return replace(
        reference, points=points, valid=(valid1[:, pick, pick], valid2[:, pick, pick])
    ), pick
