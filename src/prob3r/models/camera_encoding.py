"""Cameras as nine numbers, as in VGGT and Depth Anything 3; frames of poses.

An encoding has a rigid motion and two fields of view: the translation, a quaternion with its real
part last, then the vertical and the horizontal field of view in radians. The direction of the
motion, from the world to the camera or back, depends on the architecture.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import invert_rigid

ENCODING = 9
"""Numbers in an encoding."""


def motion_of(encoding: Float[Tensor, "b v 9"]) -> Float[Tensor, "b v 4 4"]:
    """Return the rigid motions of encodings. The quaternions may have any norm except 0."""
    import roma  # takes long, and `import prob3r` should not

    translation, quaternion, _ = encoding.split((3, 4, 2), -1)
    rotation = roma.unitquat_to_rotmat(quaternion / quaternion.norm(dim=-1, keepdim=True))
    bottom = encoding.new_tensor((0.0, 0, 0, 1)).expand(*encoding.shape[:2], 1, 4)
    return torch.cat((torch.cat((rotation, translation[..., None]), -1), bottom), -2)


def intrinsics_of(
    encoding: Float[Tensor, "b v 9"], size: tuple[int, int], least: float = 0.0
) -> Float[Tensor, "b v 3 3"]:
    """Return the intrinsics of encodings.

    The principal point is at half the width and half the height, with pixel centres at integer
    coordinates, because the official code unprojects depth in this way.

    Args:
        encoding: The encoding of each view.
        size: Height and width of the images, in pixels.
        least: The smallest tangent of half a field of view. With 0, a field of view of 0 gives an
            infinite focal length.
    """
    angles = encoding[..., -2:]
    # Vertical, then horizontal, as the size.
    focal = angles.new_tensor(size) / 2 / (angles / 2).tan().clamp_min(least)
    height, width = size
    zero, one = torch.zeros_like(focal[..., 0]), torch.ones_like(focal[..., 0])
    rows = (
        (focal[..., 1], zero, one * width / 2),
        (zero, focal[..., 0], one * height / 2),
        (zero, zero, one),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def encode(
    motion: Float[Tensor, "b v 4 4"], intrinsics: Float[Tensor, "b v 3 3"], size: tuple[int, int]
) -> Float[Tensor, "b v 9"]:
    """Return the encodings of motions and intrinsics.

    Quaternions have norm 1 and a real part of 0 or more.

    Args:
        motion: The rigid motion of each view.
        intrinsics: The intrinsics of each view, in pixels.
        size: Height and width of the images, in pixels.
    """
    import roma  # takes long, and `import prob3r` should not

    quaternion = roma.rotmat_to_unitquat(motion[..., :3, :3].contiguous())
    quaternion = quaternion.where(quaternion[..., 3:] >= 0, -quaternion)
    focal = torch.diagonal(intrinsics, dim1=-2, dim2=-1)[..., :2].flip(-1)
    angles = 2 * (focal.new_tensor(size) / 2 / focal).atan()
    return torch.cat((motion[..., :3, 3], quaternion, angles), -1)


def inverses(motion: Float[Tensor, "b v 4 4"]) -> Float[Tensor, "b v 4 4"]:
    """Return the inverses of rigid motions."""
    return invert_rigid(motion.flatten(0, 1)).unflatten(0, motion.shape[:2])


def in_first_frame(poses: Float[Tensor, "b v 4 4"]) -> Float[Tensor, "b v 4 4"]:
    """Return poses, camera to world, in the frame of camera 1, whose pose is the identity."""
    return inverses(poses[:, :1]) @ poses
