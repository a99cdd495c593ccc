"""The cameras that a model's own camera head says at every block of its trunk."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import relative_pose, rotation_error, translation_error
from prob3r.models import Model
from prob3r.probes.own_heads import cameras_at_blocks
from prob3r.runs.edits import Edit
from prob3r.scenes.views import Views


class CameraPath(NamedTuple):
    """Where the cameras are at every block.

    Attributes:
        blocks: The numbers of the blocks.
        cam_to_world: The poses of all views in camera 1's frame, by block. Each block's poses have
            a unit of length of their own.
        rotation_error: Angles to the rotations of the truth, or without it of the last block read,
            in degrees. View 1 has none, so the first one is of view 2.
        translation_error: Angles between the translations, in degrees; NaN where the camera it is
            measured against has not moved.
    """

    blocks: tuple[int, ...]
    cam_to_world: Float[Tensor, "l b v 4 4"]
    rotation_error: Float[Tensor, "l b w"]
    translation_error: Float[Tensor, "l b w"]


def camera_path(
    model: Model, views: Views, blocks: Iterable[int] | None = None, edits: Iterable[Edit] = ()
) -> CameraPath:
    """Return the cameras that the model's camera head reads off each block of its trunk.

    Args:
        model: A model whose heads can be read at any block; see `prob3r.probes.own_heads`.
        views: A scene, or a batch of scenes, of two views or more.
        blocks: Numbers of blocks. The default is all.
        edits: Changes to the run.

    Raises:
        Prob3rError: The model cannot be read so, or has no such block.
    """
    found = cameras_at_blocks(model, views, blocks, edits)
    poses = torch.stack([_relative(cameras.cam_to_world) for cameras in found.values()])
    true = _relative(views.cam_to_world).to(poses) if views.has_poses else poses[-1]
    aim = true.expand_as(poses)[:, :, 1:].flatten(0, 2)
    moved = poses[:, :, 1:].flatten(0, 2)
    shape = (*poses.shape[:2], poses.shape[2] - 1)
    return CameraPath(
        tuple(found),
        poses,
        rotation_error(moved[:, :3, :3], aim[:, :3, :3]).reshape(shape),
        translation_error(moved[:, :3, 3], aim[:, :3, 3], None).reshape(shape),
    )


def _relative(poses: Float[Tensor, "b v 4 4"]) -> Float[Tensor, "b v 4 4"]:
    """Return poses in camera 1's frame."""
    first = poses[:, :1].expand_as(poses).flatten(0, 1)
    return relative_pose(first, poses.flatten(0, 1)).reshape(poses.shape)
