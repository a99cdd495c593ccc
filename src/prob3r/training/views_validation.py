"""Validation of a model of many views during training, on held-out rooms."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    auc,
    invert_rigid,
    median,
    normalise,
    pointmap_error,
    pose_error,
    rotation_error,
    translation_error,
)
from prob3r.models import Model
from prob3r.scenes.shuffled import with_other_first
from prob3r.scenes.views import Views
from prob3r.training.validation import held_out

AUC_DEGREES = 30


class ViewsValidation:
    """Held-out rooms of several views, and the errors that are measured on them.

    Cameras are those that the model states. For each view but the first, the error is that of the
    pose of its camera relative to the stated camera 1. The control shows the model another scene's
    photograph as view 1.

    Args:
        size: Side of the square images in pixels.
        scenes: Number of staged rooms.
        device: Where to render and to run.
        batch: Scenes at once.
        photographs: A folder of photographs for the surfaces of everyday rooms.
        everyday: Whether to measure on everyday rooms too, half as many.
        views: Number of views of each room.
    """

    def __init__(
        self,
        size: int,
        scenes: int,
        device: torch.device | str,
        batch: int = 32,
        photographs: Path | None = None,
        everyday: bool = False,
        views: int = 4,
    ):
        self.staged, self.everyday = held_out(
            size, scenes, device, batch, photographs, everyday, views
        )

    def measure(self, model: Model) -> dict[str, float]:
        """Return medians over views, the AUC of camera errors, and the control's rotation error."""
        # To compile the blocks again for this batch would take longer than to run them eagerly.
        # No inference mode, for the reason in `Validation`.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            measured = _measure(model, self.staged)
            if self.everyday:
                found = _measure(model, self.everyday)
                measured |= {f"everyday_{name}": value for name, value in found.items()}
            return measured


class _Errors(NamedTuple):
    """The errors of a batch, for all views but the first; `points1` is of view 1."""

    rotation: Float[Tensor, " n"]
    translation: Float[Tensor, " n"]
    still: Float[Tensor, " n"]
    points1: Float[Tensor, " b"]
    points2: Float[Tensor, " n"]


def _measure(model: Model, batches: Sequence[Views]) -> dict[str, float]:
    found = [_errors(model, scenes, scenes) for scenes in batches]
    errors = _Errors(*(torch.cat(column) for column in zip(*found, strict=True)))
    control = torch.cat([_control_rotation(model, scenes) for scenes in batches])
    worst = pose_error(errors.rotation, errors.translation)
    return {
        "pointmap_error1": median(errors.points1).item(),
        "pointmap_error2": median(errors.points2).item(),
        "rotation_error": median(errors.rotation).item(),
        "translation_error": median(errors.translation).item(),
        f"auc@{AUC_DEGREES}": auc(worst, AUC_DEGREES).item(),
        "shuffled_rotation_error": median(control).item(),
        "still_rotation_error": median(errors.still).item(),
    }


def _control_rotation(model: Model, scenes: Views) -> Float[Tensor, " n"]:
    """Return the rotation errors if view 1 shows another scene; NaN where there is no other."""
    control = with_other_first(scenes)
    rotation = _errors(model, control.views, scenes).rotation  # view after view
    return rotation.where(control.known.repeat(scenes.count - 1), torch.nan)


def _errors(model: Model, shown: Views, scenes: Views) -> _Errors:
    """Return the errors of scenes if the model is shown the given views."""
    output = model(*shown.images)
    assert output.cameras is not None
    stated, true = output.cameras.cam_to_world, scenes.cam_to_world
    stated = invert_rigid(stated[:, 0])[:, None] @ stated
    valid = scenes.valid
    depth = scenes.mean_depth
    rotation, translation, still = [], [], []
    for pose, wanted in zip(stated.unbind(1)[1:], true.unbind(1)[1:], strict=True):
        rotation.append(rotation_error(pose[:, :3, :3], wanted[:, :3, :3]))
        translation.append(translation_error(pose[:, :3, 3], wanted[:, :3, 3], depth))
        identity = torch.eye(3).to(wanted).expand(len(wanted), 3, 3)
        still.append(rotation_error(identity, wanted[:, :3, :3]))
    maps = normalise(output.points, valid), normalise(scenes.points, valid), valid
    points = [pointmap_error(*each) for each in zip(*maps, strict=True)]
    return _Errors(
        torch.cat(rotation),
        torch.cat(translation),
        torch.cat(still),
        points[0],
        torch.cat(points[1:]),
    )
