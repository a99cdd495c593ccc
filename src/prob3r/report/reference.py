"""What a pair's errors are measured against, and the errors of every step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import (
    PoseAndShape,
    Similarity,
    intrinsics_from_pointmap,
    invert_rigid,
    norm_factor,
    pose_and_shape,
    pose_from_pointmap,
    pose_of_pointmap,
    rotation_error,
    transform,
    translation_error,
)
from prob3r.scenes import Pair

TRUTH, TRUTH_BY_PNP, FINAL = "truth", "truth, pose by PnP", "final state"
METRICS = (
    "rotation_error",
    "translation_error",
    "scale_error",
    "inner_shape_error",
    "pointmap_error",
)

Points = tuple[Float[Tensor, "1 _h _w 3"], ...]
Masks = tuple[Bool[Tensor, "1 _h _w"], ...]
Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Reference:
    """What predictions are compared with, in the unit of the pair's joint mean distance.

    Attributes:
        points: Pointmaps of both views in camera 1's frame.
        valid: Where they count.
        pose: Of camera 2 in camera 1's frame.
        kind: `TRUTH` or `FINAL`.
    """

    points: Points
    valid: Masks
    pose: Float[Tensor, "1 4 4"]
    kind: str

    @classmethod
    def of(cls, pair: Pair, final: Points, pose: Float[Tensor, "1 4 4"]) -> "Reference":
        """Return the truth where both views' is known, and the model's final state elsewhere.

        Args:
            pair: The pair.
            final: The model's output, in any unit.
            pose: Of camera 2 by that output, in its unit.
        """
        points, kind = final, FINAL
        valid: Masks = tuple(_finite(points) for points in final)
        if pair.has_truth:
            points, valid, pose, kind = pair.points, pair.valid, pair.view2_to_view1, TRUTH
        raw = cls(points, valid, pose, kind)
        return replace(raw, points=raw.normalise(points), pose=raw.normalise_pose(pose, points))

    def normalise(self, points: Points) -> Points:
        """Return predicted pointmaps in the pair's unit."""
        unit = norm_factor(points, self._counts(points))
        return points[0] / unit, points[1] / unit

    def normalise_pose(
        self, pose: Float[Tensor, "1 4 4"], points: Points
    ) -> Float[Tensor, "1 4 4"]:
        """Return a pose that shares the unit of predicted pointmaps, in the pair's unit."""
        pose = pose.clone()
        pose[:, :3, 3] /= norm_factor(points, self._counts(points))[:, None]
        return pose

    def fit(self, points2: Float[Tensor, "1 h2 w2 3"]) -> Similarity:
        """Return view 2's pose and scale as a predicted pointmap states them."""
        local = transform(self.points[1], invert_rigid(self.pose))
        return pose_from_pointmap(local, points2, self.valid[1] & _finite(points2))

    def errors(self, points: Points) -> tuple[PoseAndShape, PoseAndShape]:
        """Return the errors of a predicted pair for view 1 and for view 2.

        View 1's are those of a second view whose camera is camera 1.
        """
        valid = self._counts(points)
        still = torch.eye(4).to(self.pose)[None]
        (found1, found2), (true1, true2), (valid1, valid2) = points, self.points, valid
        one = pose_and_shape(found2, found1, true2, true1, valid2, valid1, still)
        return one, pose_and_shape(found1, found2, true1, true2, valid1, valid2, self.pose)

    def _counts(self, points: Points) -> Masks:
        return self.valid[0] & _finite(points[0]), self.valid[1] & _finite(points[1])


def measure(
    pair: Pair, steps: Sequence[Points], reference: Reference
) -> tuple[dict[int, Curves], dict[int, dict[str, str]]]:
    """Return the errors of every step, by view and metric, and what each was measured against.

    Where the cameras are known but not both depths, the pose of view 2 is measured against the
    truth by PnP; where view 1's depth is known, so is view 1, normalised on its own. All else is
    measured against the reference. A pose that PnP does not find is NaN.
    """
    curves: dict[int, Curves] = {view: {metric: [] for metric in METRICS} for view in (1, 2)}
    against = {view: dict.fromkeys(METRICS, reference.kind) for view in (1, 2)}
    for points in steps:
        for view, errors in zip((1, 2), reference.errors(points), strict=True):
            _append(curves[view], errors)
    if reference.kind == FINAL and pair.has_poses:
        by_pnp = _poses_by_pnp(pair, steps)
        curves[2] |= by_pnp
        against[2] |= dict.fromkeys(by_pnp, TRUTH_BY_PNP)
    if reference.kind == FINAL and _depth1(pair) is not None:
        curves[1] = _view1_alone(pair, [first for first, _ in steps])
        against[1] = dict.fromkeys(METRICS, TRUTH)
    return curves, against


def _finite(points: Float[Tensor, "b h w 3"]) -> Bool[Tensor, "b h w"]:
    return points.isfinite().all(dim=-1)


def _append(curves: Curves, errors: PoseAndShape) -> None:
    for metric in METRICS:
        name = "pointmap_error2" if metric == "pointmap_error" else metric
        curves[metric].append(float(getattr(errors, name)))


def _depth1(pair: Pair) -> tuple[Float[Tensor, "1 h w 3"], Bool[Tensor, "1 h w"]] | None:
    """View 1's true pointmap and where it counts, if it is known."""
    view = pair.view1
    if view.depth is None or view.intrinsics is None:
        return None
    return view.points, view.depth > 0 if view.valid is None else view.valid


def _poses_by_pnp(pair: Pair, steps: Sequence[Points]) -> Curves:
    true = pair.view2_to_view1
    known = _depth1(pair)
    depth = None if known is None else known[0][known[1]][:, 2].mean()[None]
    curves: Curves = {"rotation_error": [], "translation_error": []}
    for first, second in steps:
        views = pair.view1, pair.view2
        matrices = intrinsics_from_pointmap(
            first, [view.size for view in views], [view.intrinsics for view in views]
        )
        found = pose_of_pointmap(second[0], matrices[1][0])
        pose = torch.full_like(true, torch.nan) if found is None else found.cam_to_world[None]
        direction = translation_error(pose[:, :3, 3], true[:, :3, 3], depth)
        curves["rotation_error"].append(float(rotation_error(pose[:, :3, :3], true[:, :3, :3])))
        curves["translation_error"].append(float(direction))
    return curves


def _view1_alone(pair: Pair, steps: Sequence[Float[Tensor, "1 h w 3"]]) -> Curves:
    known = _depth1(pair)
    assert known is not None
    (true, valid), still = known, torch.eye(4).to(steps[0])[None]
    curves: Curves = {metric: [] for metric in METRICS}
    for points in steps:
        counts = valid & _finite(points)
        _append(curves, pose_and_shape(points, points, true, true, counts, counts, still))
    return curves
