"""Errors of the cameras and errors of the points of a scene of several views.

The cameras are found in two ways. A model with a camera head states them. Every pointmap also
implies its camera, by the similarity that takes the view's true points in its own frame onto the
predicted ones. A cut may break one of them and not the other.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    auc,
    mean_depth,
    norm_factor,
    normalise,
    pointmap_error,
    pose_error,
    pose_from_pointmap,
    relative_pose_errors,
)
from prob3r.models.protocol import Prediction
from prob3r.scenes.views import Pair, Views

AUC_DEGREES = 30
"""The threshold of the area under the recall curve of pose errors."""

SMALLEST_BASELINE = 0.01
"""A share of a scene's mean depth. Between nearer cameras, the direction means little."""

CAMERA_ERRORS = ("rotation_error", "translation_error", f"auc@{AUC_DEGREES}")
"""The measures of the cameras. The AUC is not an error: a larger value is better."""

STATED, POINTS = "stated", "points"
"""The source of the cameras: the model's camera head, or its pointmaps."""


def scene_errors(output: Prediction, views: Views) -> dict[str, Float[Tensor, " b"]]:
    """Return the errors of an output against the truth, scene by scene.

    Returns:
        `stated rotation_error`, `stated translation_error` and `stated auc@30` are of the cameras
        that the model states, if it states any. The same names with `points` are of the cameras
        that its pointmaps imply. `pointmap_error` is the mean over the views, in the unit in which
        the valid points of all views together have a mean distance of 1. `shape_error` is what is
        left of it when each view's points are aligned with the truth by a similarity.

        Errors of cameras are means over all pairs of views, in degrees, and the AUC is over these
        pairs; it is the exact one of `geometry.auc`. A translation between cameras nearer than
        `SMALLEST_BASELINE` has no error.
    """
    local, valid = [view.points for view in views.views], views.valid
    fits = [
        pose_from_pointmap(at_home, points, known)
        for at_home, points, known in zip(local, output.points, valid, strict=True)
    ]
    told = torch.eye(4).to(output.points[0]).repeat(len(views), views.count, 1, 1)
    told[..., :3, :3] = torch.stack([fit.rotation for fit in fits], 1)
    told[..., :3, 3] = torch.stack([fit.translation for fit in fits], 1)
    tellers = {POINTS: told}
    if output.cameras is not None:
        tellers = {STATED: output.cameras.cam_to_world, **tellers}
    depth = mean_depth(local, valid)
    errors = {
        f"{teller} {name}": values
        for teller, poses in tellers.items()
        for name, values in camera_errors(poses, views.cam_to_world, depth).items()
    }
    unit = norm_factor(output.points, valid)
    true = [points * unit[:, None, None, None] for points in normalise(views.points, valid)]
    aligned = [fit.apply(at_home) for fit, at_home in zip(fits, local, strict=True)]
    for name, wanted in (("pointmap_error", true), ("shape_error", aligned)):
        maps = zip(output.points, wanted, valid, strict=True)
        errors[name] = torch.stack([pointmap_error(*view) for view in maps]).mean(0) / unit
    return errors


def pair_errors(output: Prediction, pair: Pair) -> dict[str, Float[Tensor, " b"]]:
    """Return the errors of pairs by the names of `PoseAndShape`, against the truth.

    If the model states cameras, the rotation and the translation error are those of `camera_errors`
    for the stated cameras; otherwise they are those of the cameras that the pointmaps tell.
    """
    errors = pair.errors_of(output.points)._asdict()
    if output.cameras is not None:
        depth = pair.mean_depth
        stated = camera_errors(output.cameras.cam_to_world, pair.cam_to_world, depth)
        errors |= {name: stated[name] for name in ("rotation_error", "translation_error")}
    return errors


def camera_errors(
    poses: Float[Tensor, "b v 4 4"],
    true: Float[Tensor, "b v 4 4"],
    mean_depth: Float[Tensor, " b"],
) -> dict[str, Float[Tensor, " b"]]:
    """Return the `CAMERA_ERRORS` of the cameras of some scenes, over all pairs of views.

    Args:
        poses: `cam_to_world`, in any frame and in any unit that all views share.
        true: The true poses, in the unit of `mean_depth`.
        mean_depth: Mean depth of all views of a scene, each in its own camera's frame.
    """
    errors = relative_pose_errors(poses, true, folded=False)
    first, second = torch.triu_indices(true.shape[1], true.shape[1], offset=1)
    baseline = (true[:, first, :3, 3] - true[:, second, :3, 3]).norm(dim=-1)
    near = baseline < SMALLEST_BASELINE * mean_depth[:, None]
    translation = errors.translation.masked_fill(near, torch.nan)
    worst = pose_error(errors.rotation, translation)
    values = errors.rotation.mean(1), translation.nanmean(1), auc(worst, AUC_DEGREES)
    return dict(zip(CAMERA_ERRORS, values, strict=True))
