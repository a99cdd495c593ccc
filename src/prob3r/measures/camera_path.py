"""The cameras that a model's own camera head states at every block of its trunk."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import relative_pose, rotation_error, translation_error
from prob3r.measures.reference import FINAL, TRUTH
from prob3r.models import Model
from prob3r.probes.own_heads import cameras_at_blocks
from prob3r.runs.edits import Edit
from prob3r.scenes.views import Views


class CameraPath(NamedTuple):
    """The cameras at every block, and their errors.

    Attributes:
        blocks: The numbers of the blocks.
        cam_to_world: The poses of all views in camera 1's frame, by block. Each block's poses have
            a unit of length of their own.
        rotation_error: Angles to the true rotations, or to those of the last block read if the
            truth is not known, in degrees. View 1 is left out, so the first entry is view 2.
        translation_error: The same angles between the translations. They are NaN where the camera
            that they are measured against is where camera 1 is.
    """

    blocks: tuple[int, ...]
    cam_to_world: Float[Tensor, "l b v 4 4"]
    rotation_error: Float[Tensor, "l b w"]
    translation_error: Float[Tensor, "l b w"]


@dataclass(frozen=True)
class CameraCurves:
    """The errors of the camera head at every block, for one scene.

    Attributes:
        blocks: The numbers of the blocks.
        against: What the errors are measured against: the truth, or the final state, which is the
            output of the head at the last block.
        rotation_error: The error of each view but the first at every block, in degrees.
        translation_error: The same for the directions to the cameras; NaN as in `CameraPath`.
    """

    blocks: tuple[int, ...]
    against: str
    rotation_error: dict[int, list[float]]
    translation_error: dict[int, list[float]]

    @classmethod
    def of(cls, path: CameraPath, views: Views) -> "CameraCurves":
        """Return the curves of a path of one scene."""
        numbers = range(2, views.count + 1)
        rotation, translation = (
            dict(zip(numbers, errors[:, 0].T.tolist(), strict=True))
            for errors in (path.rotation_error, path.translation_error)
        )
        against = TRUTH if views.has_poses else FINAL
        return cls(path.blocks, against, rotation, translation)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes, with views called `view2` and so on."""
        return {
            "blocks": self.blocks,
            "against": self.against,
            "rotation_error": {f"view{v}": e for v, e in self.rotation_error.items()},
            "translation_error": {f"view{v}": e for v, e in self.translation_error.items()},
        }


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
        Prob3rError: The model's heads cannot be read at any block, or it has no such block.
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
