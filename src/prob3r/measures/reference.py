"""What errors of a scene's views are measured against, and the errors at every step.

The errors of views 2, 3, … are those of the pair of view 1 and that view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import (
    PoseAndShape,
    Similarity,
    finite,
    intrinsics_from_pointmap,
    invert_rigid,
    mean_depth,
    norm_factor,
    pose_and_shape,
    pose_from_pointmap,
    pose_of_pointmap,
    rotation_error,
    transform,
    translation_error,
)
from prob3r.measures.errors import METRICS
from prob3r.scenes import Views

TRUTH, TRUTH_BY_PNP, FINAL = "truth", "truth, pose by PnP", "final state"

Points = tuple[Float[Tensor, "1 _h _w 3"], ...]
Predictions = tuple[Float[Tensor, "_s _h _w 3"], ...]
Masks = tuple[Bool[Tensor, "_s _h _w"], ...]
Curves = dict[str, list[float]]

AT_ONCE = 2**20
"""Pixels of a view, over several steps, whose errors are measured at once."""


@dataclass(frozen=True)
class Reference:
    """What predictions are compared with, in the unit of the views' joint mean distance.

    Attributes:
        points: Pointmaps of all views in camera 1's frame.
        valid: The pixels that count.
        poses: Poses of all cameras in camera 1's frame; the first is the identity.
        kind: `TRUTH` or `FINAL`.
    """

    points: Points
    valid: Masks
    poses: Float[Tensor, "1 v 4 4"]
    kind: str

    @classmethod
    def of(cls, views: Views, final: Points, poses: Float[Tensor, "1 v 4 4"]) -> "Reference":
        """Return the truth if it is known for all views, else the model's final state.

        Args:
            views: One scene.
            final: The model's output, in any unit.
            poses: Poses of all cameras by that output, in its unit.
        """
        points, kind = final, FINAL
        valid: Masks = tuple(finite(points) for points in final)
        if views.has_truth:
            points, valid, poses, kind = views.points, views.valid, views.cam_to_world, TRUTH
        raw = cls(points, valid, poses, kind)
        return replace(raw, points=raw.normalise(points), poses=raw.normalise_poses(poses, points))

    def pose(self, view: int) -> Float[Tensor, "1 4 4"]:
        """Return the pose of a view's camera in camera 1's frame."""
        return self.poses[:, view - 1]

    def normalise(self, points: Points) -> Points:
        """Return predicted pointmaps in the unit of their joint mean distance."""
        unit = norm_factor(points, self._counts(points))
        return tuple(p / unit for p in points)

    def normalise_poses(
        self, poses: Float[Tensor, "1 v 4 4"], points: Points
    ) -> Float[Tensor, "1 v 4 4"]:
        """Return poses in the unit of the views' joint mean distance.

        Args:
            poses: Poses in the unit of `points`.
            points: Predicted pointmaps of all views.
        """
        poses = poses.clone()
        poses[:, :, :3, 3] /= norm_factor(points, self._counts(points))[:, None, None]
        return poses

    def fit(self, points: Float[Tensor, "1 h w 3"], view: int) -> Similarity:
        """Return a view's pose and scale as a predicted pointmap states them."""
        local = transform(self.points[view - 1], invert_rigid(self.pose(view)))
        return pose_from_pointmap(local, points, self.valid[view - 1] & finite(points))

    def errors(self, points: Predictions) -> tuple[PoseAndShape, ...]:
        """Return the errors of s predictions of all pointmaps, view by view.

        Views 2, 3, … are each the second view of a pair with view 1. View 1 is the second view of a
        pair with view 2, and its true pose is the identity.
        """
        counts = self._counts(points)
        true = [t.expand_as(p) for t, p in zip(self.points, points, strict=True)]
        still = torch.eye(4).to(self.poses)[None]

        def of(first: int, second: int, pose: Tensor) -> PoseAndShape:
            pairs = ((group[first], group[second]) for group in (points, true, counts))
            (found1, found2), (true1, true2), (valid1, valid2) = pairs
            poses = pose.expand(len(found1), 4, 4)
            return pose_and_shape(found1, found2, true1, true2, valid1, valid2, poses)

        others = range(1, len(points))
        return of(1, 0, still), *(of(0, i, self.pose(i + 1)) for i in others)

    def _counts(self, points: Predictions) -> Masks:
        return tuple(v & finite(p) for v, p in zip(self.valid, points, strict=True))


def errors_by_step(
    views: Views, steps: Sequence[Points], reference: Reference
) -> tuple[dict[int, Curves], dict[int, dict[str, str]]]:
    """Return the errors of every step, by view and metric, and what each was measured against.

    If the truth is known in part, that part is used. If the cameras are known but not all depths,
    PnP finds the poses of views 2, 3, … in their pointmaps, and they are compared with the true
    poses; the errors are NaN if PnP finds none. If the depth of view 1 is known, view 1 is compared
    with its true pointmap, normalised on its own. All else is compared with the reference.
    """
    numbers = range(1, views.count + 1)
    curves: dict[int, Curves] = {view: {metric: [] for metric in METRICS} for view in numbers}
    against = {view: dict.fromkeys(METRICS, reference.kind) for view in numbers}
    together = max(1, AT_ONCE // max(view.image[0, 0].numel() for view in views.views))
    for first in range(0, len(steps), together):
        several = zip(*steps[first : first + together], strict=True)
        found = reference.errors(tuple(torch.cat(points) for points in several))
        for view, errors in zip(numbers, found, strict=True):
            _append(curves[view], errors)
    if reference.kind == FINAL and views.has_poses:
        for view, by_pnp in _poses_by_pnp(views, steps).items():
            curves[view] |= by_pnp
            against[view] |= dict.fromkeys(by_pnp, TRUTH_BY_PNP)
    if reference.kind == FINAL and _depth1(views) is not None:
        curves[1] = _view1_alone(views, [points[0] for points in steps])
        against[1] = dict.fromkeys(METRICS, TRUTH)
    return curves, against


def _append(curves: Curves, errors: PoseAndShape) -> None:
    for metric in METRICS:
        name = "pointmap_error2" if metric == "pointmap_error" else metric
        curves[metric] += getattr(errors, name).tolist()


def _depth1(views: Views) -> tuple[Float[Tensor, "1 h w 3"], Bool[Tensor, "1 h w"]] | None:
    """Return view 1's true pointmap and its known pixels, or None if it is not known."""
    view = views.view(1)
    if view.depth is None or view.intrinsics is None:
        return None
    return view.points, view.known


def _poses_by_pnp(views: Views, steps: Sequence[Points]) -> dict[int, Curves]:
    true = views.cam_to_world
    known = _depth1(views)
    depth = None if known is None else mean_depth([known[0]], [known[1]])
    others = range(2, views.count + 1)
    curves: dict[int, Curves] = {
        view: {"rotation_error": [], "translation_error": []} for view in others
    }
    for points in steps:
        matrices = intrinsics_of(views, points[0])
        for view in others:
            want = true[:, view - 1]
            found = pose_of_pointmap(points[view - 1][0], matrices[view - 1][0])
            pose = torch.full_like(want, torch.nan) if found is None else found.cam_to_world[None]
            turn = rotation_error(pose[:, :3, :3], want[:, :3, :3])
            direction = translation_error(pose[:, :3, 3], want[:, :3, 3], depth)
            curves[view]["rotation_error"].append(float(turn))
            curves[view]["translation_error"].append(float(direction))
    return curves


def intrinsics_of(
    views: Views,
    points1: Float[Tensor, "b h w 3"],
    confidence1: Float[Tensor, "b h w"] | None = None,
) -> list[Float[Tensor, "b 3 3"]]:
    """Return the intrinsics of all views, estimated from view 1's pointmap where not known."""
    sizes = [view.size for view in views.views]
    return intrinsics_from_pointmap(
        points1, sizes, [view.intrinsics for view in views.views], confidence1
    )


def _view1_alone(views: Views, steps: Sequence[Float[Tensor, "1 h w 3"]]) -> Curves:
    known = _depth1(views)
    assert known is not None
    (true, valid), still = known, torch.eye(4).to(steps[0])[None]
    curves: Curves = {metric: [] for metric in METRICS}
    for points in steps:
        counts = valid & finite(points)
        _append(curves, pose_and_shape(points, points, true, true, counts, counts, still))
    return curves
