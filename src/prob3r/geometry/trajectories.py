"""Errors of a camera's trajectory."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry.alignment import align
from prob3r.geometry.cameras import rotation_angle
from prob3r.geometry.pointmaps import invert_rigid


class TrajectoryErrors(NamedTuple):
    """Errors of whole trajectories.

    Attributes:
        ate: Absolute trajectory error: root mean square of the distances between the cameras'
            positions after alignment, in the unit of the truth.
        rpe_translation: Relative pose error: root mean square of the length of the difference
            between predicted and true motion from each view to the next, in the unit of the truth.
        rpe_rotation: Root mean square of the angle of the same difference, in degrees.
    """

    ate: Float[Tensor, " b"]
    rpe_translation: Float[Tensor, " b"]
    rpe_rotation: Float[Tensor, " b"]


def trajectory_errors(
    predicted: Float[Tensor, "b v 4 4"], true: Float[Tensor, "b v 4 4"]
) -> TrajectoryErrors:
    """Errors of trajectories after the similarity that best fits the cameras' positions.

    The similarity (Umeyama) is fitted once over all views. For the ATE it moves the predicted
    positions. For the RPE it changes only the scale, because a motion from one view to the next
    does not depend on the frame.

    Args:
        predicted: Poses `cam_to_world` in the order of recording, in any frame and unit.
        true: The true poses `cam_to_world`; their unit is that of the errors.

    Returns:
        The errors; infinite where a predicted pose is not finite.
    """
    finite = predicted.isfinite().flatten(1).all(dim=1)
    predicted = predicted.where(finite[:, None, None, None], torch.eye(4).to(predicted))
    fit = align(predicted[..., :3, 3], true[..., :3, 3])
    apart = (fit.apply(predicted[..., :3, 3]) - true[..., :3, 3]).norm(dim=-1)
    found, wanted = _motions(predicted), _motions(true)
    found = found.clone()
    found[..., :3, 3] *= fit.scale[:, None, None]
    b, steps = found.shape[:2]
    difference = invert_rigid(wanted.flatten(0, 1)) @ found.flatten(0, 1)
    lengths = difference[:, :3, 3].norm(dim=-1).reshape(b, steps)
    angles = rotation_angle(difference[:, :3, :3]).reshape(b, steps)
    errors = (e.square().mean(dim=1).sqrt() for e in (apart, lengths, angles))
    return TrajectoryErrors(*(e.masked_fill(~finite, torch.inf) for e in errors))


def _motions(poses: Float[Tensor, "b v 4 4"]) -> Float[Tensor, "b steps 4 4"]:
    """Poses of all views except the first, each in the frame of the view before it."""
    before, after = poses[:, :-1], poses[:, 1:]
    motions = invert_rigid(before.flatten(0, 1)) @ after.flatten(0, 1)
    return motions.reshape(after.shape)
