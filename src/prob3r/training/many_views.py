"""The objective of models of any number of views: to predict cameras, depth and pointmaps.

The losses are those of Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025,
without that of tracks.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prob3r.geometry import norm_factor
from prob3r.models import Cameras, Prediction
from prob3r.models.camera_head import encoding_of
from prob3r.models.sites import Tap
from prob3r.scenes.views import Views
from prob3r.training.objectives import ALPHA, Objective, mean_over, weigh

CAMERA = 5.0  # weight of the camera's loss beside those of depth and points
DECAY = 0.6  # weight of an iteration of the camera head, relative to the next iteration
CORNER = 0.05  # error of an encoding below which the Huber loss is quadratic


@runtime_checkable
class RefinesCameras(Protocol):
    """A model that predicts depth and pointmaps, and cameras in several iterations."""

    def refined(
        self, *images: Tensor, tap: Tap | None = None
    ) -> tuple[Prediction, list[Float[Tensor, "b v 9"]]]:
        """Return the prediction, and the encodings of all cameras after each iteration."""


class Truth:
    """The truth of a batch of scenes, in the unit that a model is to predict.

    The unit of a scene is the mean distance of the valid points of all views to camera 1.
    Predictions are not normalised, so that the model learns this unit.

    Attributes:
        cameras: Encodings of all cameras.
        points: The pointmaps of all views, one after the other.
        depth: The depth maps, in the same order.
        valid: The pixels in which both are known.
    """

    cameras: Float[Tensor, "b v 9"]
    points: Float[Tensor, "vb h w 3"]
    depth: Float[Tensor, "vb h w"]
    valid: Bool[Tensor, "vb h w"]

    def __init__(self, scenes: Views):
        points, valid, poses = scenes.points, scenes.valid, scenes.cam_to_world.clone()
        unit = norm_factor(points, valid)  # b
        poses[..., :3, 3] /= unit[:, None, None]
        depth, intrinsics = [], []
        for view in scenes.views:
            assert view.depth is not None
            assert view.intrinsics is not None
            depth.append(view.depth / unit[:, None, None])
            intrinsics.append(view.intrinsics)
        cameras = Cameras(poses, torch.stack(intrinsics, 1))
        self.cameras = encoding_of(cameras, scenes.views[0].size)
        self.points = torch.cat([p / unit[:, None, None, None] for p in points])
        self.depth, self.valid = torch.cat(depth), torch.cat(valid)


class ManyViews(Objective):
    """VGGT's losses of cameras, depth and pointmaps."""

    many_views: ClassVar[bool] = True

    @classmethod
    def trains(cls, module: nn.Module) -> bool:
        """Return whether the model predicts depth, and cameras in several iterations."""
        return isinstance(module, RefinesCameras)

    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the sum of the losses of cameras, depth and pointmaps."""
        assert isinstance(self.module, RefinesCameras)
        output, encodings = self.module.refined(*scenes.images, tap=self.tap)
        truth = Truth(scenes)
        assert output.depth is not None
        assert output.depth_confidence is not None
        depth, confidence = torch.cat(output.depth), torch.cat(output.depth_confidence)
        points = torch.cat(output.points)
        return (
            CAMERA * camera_loss(encodings, truth.cameras)
            + dense_loss(depth[..., None], confidence, truth.depth[..., None], truth.valid)
            + dense_loss(points, torch.cat(output.confidence), truth.points, truth.valid)
        )


def camera_loss(
    encodings: Sequence[Float[Tensor, "b v 9"]], true: Float[Tensor, "b v 9"]
) -> Float[Tensor, ""]:
    """Return the Huber loss of camera encodings, a mean over all iterations of the camera head.

    Each iteration weighs `DECAY` times as much as the next one. Fields of view weigh half as much
    as translations and quaternions.
    """
    weights = [DECAY**i for i in range(len(encodings))][::-1]
    total = true.new_zeros(())
    for encoding, weight in zip(encodings, weights, strict=True):
        error = F.smooth_l1_loss(encoding, true, beta=CORNER, reduction="none")
        translation, quaternion, angles = (e.mean() for e in error.split((3, 4, 2), -1))
        total = total + weight * (translation + quaternion + 0.5 * angles)
    return total / sum(weights)


def dense_loss(
    predicted: Float[Tensor, "b h w c"],
    confidence: Float[Tensor, "b h w"],
    true: Float[Tensor, "b h w c"],
    valid: Bool[Tensor, "b h w"],
    alpha: float = ALPHA,
) -> Float[Tensor, ""]:
    """Return the confidence-weighted loss of maps and of their gradients (VGGT, section 3.4).

    A pixel's loss is `confidence * error - alpha * log(confidence)`. A gradient is the difference
    of two neighbours that are both valid; its error is weighted by the confidence of the first.
    """
    error = predicted - true
    down = valid[:, 1:] & valid[:, :-1], error[:, 1:] - error[:, :-1], confidence[:, :-1]
    right = valid[:, :, 1:] & valid[:, :, :-1], error[:, :, 1:] - error[:, :, :-1]
    loss = mean_over(weigh(error.norm(dim=-1), confidence, alpha), valid)
    for both, slope, weight in (down, (*right, confidence[:, :, :-1])):
        loss = loss + mean_over(weight * slope.norm(dim=-1), both)
    return loss
