"""The camera path by a model's own camera head: the poses of all cameras after every block."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import invert_rigid, rotation_error, translation_error
from prob3r.models import Model
from prob3r.models.protocol import ReadsEarly, trunk
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.scenes import Views


class CameraPath(NamedTuple):
    """The poses of all cameras of one scene after every block of the trunk.

    Attributes:
        poses: In camera 1's frame, in the unit of the model's output. Camera 1's are the identity.
    """

    poses: Float[Tensor, "blocks v 4 4"]

    @classmethod
    def of(cls, model: Model, views: Views, edits: Iterable[Edit] = ()) -> "CameraPath | None":
        """Return the path of one scene; None for a model whose head states no cameras early.

        Args:
            model: The model. It runs once more.
            views: One scene.
            edits: Changes to the run.
        """
        if not isinstance(model, ReadsEarly):
            return None
        editor = Editor(edits, Setting.of(model, views))
        with torch.no_grad():
            found = model.cameras_at_blocks(range(trunk(model).blocks), *views.images, tap=editor)
            poses = torch.stack([cameras.cam_to_world[0] for cameras in found])
        return cls(invert_rigid(poses[:, :1].flatten(0, 1))[:, None] @ poses)

    def errors(
        self, true: Float[Tensor, "v 4 4"]
    ) -> tuple[Float[Tensor, "blocks v"], Float[Tensor, "blocks v"]]:
        """Return the rotation errors and the translation errors, in degrees.

        Camera 1's are NaN, since it is at the identity by definition. See `translation_error` for
        a camera that stands where camera 1 does.

        Args:
            true: The poses to compare with, in camera 1's frame.
        """
        shape = self.poses.shape[:2]
        found, wanted = self.poses.flatten(0, 1), true.expand_as(self.poses).flatten(0, 1)
        rotation = rotation_error(found[:, :3, :3], wanted[:, :3, :3]).reshape(shape)
        direction = translation_error(found[:, :3, 3], wanted[:, :3, 3], None).reshape(shape)
        rotation[:, 0] = direction[:, 0] = torch.nan
        return rotation, direction
