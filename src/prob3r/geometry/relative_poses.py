"""Errors of the relative poses of the cameras of one scene, and their summaries over pairs."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry.cameras import rotation_angle
from prob3r.geometry.pointmaps import invert_rigid


class RelativePoseErrors(NamedTuple):
    """Errors of the relative pose of each pair of cameras, in degrees.

    Attributes:
        rotation: Angle between the relative rotations, from 0 to 180.
        translation: Angle between the directions of the relative translations, from 0 to 180;
            from 0 to 90 if folded.
    """

    rotation: Float[Tensor, "b p"]
    translation: Float[Tensor, "b p"]


def relative_pose_errors(
    predicted: Float[Tensor, "b v 4 4"], true: Float[Tensor, "b v 4 4"], *, folded: bool
) -> RelativePoseErrors:
    """Errors of the motions from camera i's frame to camera j's, for all i < j.

    Args:
        predicted: Poses `cam_to_world`, in any frame and in any unit that all views share.
        true: The true poses, in any frame and unit of their own.
        folded: Whether a translation in the opposite direction counts as right. If so, an angle
            of more than 90 degrees is replaced by 180 degrees minus that angle. The evaluations of
            VGGT, pi3 and image matching fold; prob3r's own metrics do not.

    Returns:
        A column for each pair, in the order (1, 2), (1, 3), …, (2, 3), …. A translation of zero
        length has no direction: its error is 90 degrees if folded, and 180 degrees if not. A
        predicted pose that is not finite is a failure: both errors are infinite.
    """
    first, second = torch.triu_indices(true.shape[1], true.shape[1], offset=1, device=true.device)
    motions = [
        (invert_rigid(poses[:, second].flatten(0, 1)) @ poses[:, first].flatten(0, 1))
        for poses in (predicted, true)
    ]
    found, wanted = motions
    rotation = rotation_angle(wanted[:, :3, :3].mT @ found[:, :3, :3])
    t, t_true = found[:, :3, 3], wanted[:, :3, 3]
    sine, cosine = torch.linalg.cross(t, t_true).norm(dim=-1), (t * t_true).sum(dim=-1)
    translation = torch.rad2deg(torch.atan2(sine, cosine))
    nowhere = (t == 0).all(dim=-1) | (t_true == 0).all(dim=-1)
    if folded:
        translation = torch.minimum(translation, 180 - translation)
    translation = translation.masked_fill(nowhere, 90 if folded else 180)
    failed = ~found.isfinite().all(dim=-1).all(dim=-1)
    shape = len(true), len(first)
    return RelativePoseErrors(
        *(e.masked_fill(failed, torch.inf).reshape(shape) for e in (rotation, translation))
    )


def share_below(errors: Float[Tensor, "*b n"], threshold: int | float) -> Float[Tensor, "*b"]:
    """Share of the errors that are below a threshold: RRA@k of rotations, RTA@k of translations."""
    return (errors < threshold).to(errors).mean(dim=-1)


def auc_binned(errors: Float[Tensor, "*b n"], threshold: int) -> Float[Tensor, "*b"]:
    """Area under the recall curve in steps of one degree, as a share of its largest value.

    It is the mean over the thresholds 1, 2, …, `threshold` of the share of errors below each of
    them. The evaluations of PoseDiffusion, VGGT and pi3 report it as AUC@30 of `max(rotation error,
    translation error)`. `auc` is the exact area, which is smaller.

    Args:
        errors: In degrees. Infinite errors are failures and are counted.
        threshold: The largest threshold, in degrees. An error equal to it counts as below it.
    """
    passed = threshold - errors.floor().clamp(max=threshold - 1)
    return passed.where(errors <= threshold, 0).mean(dim=-1) / threshold
