"""The reconstruction of a scene by a model, for protocols: points, cameras, depth in one frame.

Models differ in what they predict and in how many views they take. A model of any number of views
sees all views of a scene at once. A model of two views sees the reference with each other view. The
reconstructions of these pairs are brought to one scale by view 1's pointmap: the scale is the
median over its pixels of the ratio of the distances to camera 1. If the model predicts cameras,
they are used. Otherwise cameras are found by PnP from its pointmaps, with the focal length
estimated from view 1's pointmap. The intrinsics of the data set are never used.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, transform
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.models import Model, Prediction
from prob3r.scenes.view import View
from prob3r.scenes.views import Views, views_of

AT_ONCE = "all views at once"
PAIRS = "pairs with the reference, brought to one scale by view 1's pointmap"
OWN_CAMERAS = "the model's own"
PNP_CAMERAS = "by PnP from pointmaps"


class Reconstruction(NamedTuple):
    """A model's reconstruction of one scene; all lengths are in one unit, chosen by the model.

    Attributes:
        points: Pointmaps of all views in camera 1's frame.
        poses: Poses of all cameras, to camera 1's frame; NaN for a camera that is not found.
        depth: Depth along each camera's z axis; for a camera that is not found, along camera 1's.
        predictions: The model's predictions: one for all views, or one for each pair.
    """

    points: tuple[Float[Tensor, "1 _h _w 3"], ...]
    poses: Float[Tensor, "1 v 4 4"]
    depth: tuple[Float[Tensor, "1 _h _w"], ...]
    predictions: Sequence[Prediction]


def views_at_once(model: Model, views: int) -> bool:
    """Return whether the model takes this number of views at once; otherwise it takes pairs.

    Raises:
        Prob3rError: The model takes more than two views, but fewer than this number.
    """
    if model.most_views is None or views <= model.most_views:
        return True
    if model.most_views == 2:
        return False
    raise Prob3rError(
        f"A scene has {views} views, but the model takes at most {model.most_views}; this protocol "
        "needs a model that takes two views, or all views of a scene."
    )


def reconstruct(model: Model, scene: Views) -> Reconstruction:
    """Return a model's reconstruction of one scene, from its photographs alone.

    Raises:
        Prob3rError: The model takes more than two views, but fewer than the scene has.
    """
    if views_at_once(model, scene.count):
        return _of(scene, model(*scene.images))
    first, *others = scene.views
    parts = [_of(views_of([first, other]), model(first.image, other.image)) for other in others]
    reach = parts[0].points[0].norm(dim=-1)
    scales = [float((reach / part.points[0].norm(dim=-1)).nanmedian()) for part in parts]
    return Reconstruction(
        (parts[0].points[0], *(s * part.points[1] for s, part in zip(scales, parts, strict=True))),
        torch.stack(
            [
                parts[0].poses[:, 0],
                *(_scaled(part.poses[:, 1], s) for s, part in zip(scales, parts, strict=True)),
            ],
            dim=1,
        ),
        (parts[0].depth[0], *(s * part.depth[1] for s, part in zip(scales, parts, strict=True))),
        [prediction for part in parts for prediction in part.predictions],
    )


def _of(scene: Views, prediction: Prediction) -> Reconstruction:
    """Return the reconstruction of the views that the model saw together."""
    prediction = prediction.map(torch.Tensor.float)  # geometry needs float32
    points = prediction.points
    if prediction.cameras is not None:
        poses = prediction.cameras.cam_to_world
    else:
        bare = views_of([View(view.image) for view in scene.views])
        cameras = EstimatedCameras.of(bare, points, prediction.confidence[0])
        poses = cameras.poses.clone()
        for number, inliers in enumerate(cameras.inliers[1:], start=1):
            if inliers is None:
                poses[:, number] = torch.nan
    return Reconstruction(points, poses, _depth(prediction, poses), [prediction])


def _depth(
    prediction: Prediction, poses: Float[Tensor, "1 v 4 4"]
) -> tuple[Float[Tensor, "1 _h _w"], ...]:
    """Return the model's own depth, or z of its points in each camera's frame."""
    if prediction.depth is not None:
        return prediction.depth
    if prediction.local_points is not None:
        return tuple(points[..., 2] for points in prediction.local_points)
    identity = torch.eye(4).to(poses)
    found = poses.where(poses.isfinite().all(-1).all(-1)[..., None, None], identity)
    return tuple(
        transform(points, invert_rigid(found[:, number]))[..., 2]
        for number, points in enumerate(prediction.points)
    )


def _scaled(pose: Float[Tensor, "1 4 4"], scale: float) -> Float[Tensor, "1 4 4"]:
    """Return a pose in another unit."""
    scaled = pose.clone()
    scaled[:, :3, 3] *= scale
    return scaled


def how_cameras(found: Reconstruction) -> str:
    """Return in words where the cameras come from."""
    own = all(prediction.cameras is not None for prediction in found.predictions)
    return OWN_CAMERAS if own else PNP_CAMERAS
