"""Conversion of the cameras of data sets to the conventions of `prob3r.geometry`."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from prob3r.geometry import crop_intrinsics, resize_intrinsics
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import Array

TOLERANCE = 1e-3  # for the entries of a rotation, which are often written with few digits


class Camera(NamedTuple):
    """The camera of one image.

    Attributes:
        intrinsics: Pinhole matrix in pixels, pixel centres at integer coordinates.
        cam_to_world: Pose, OpenCV axes, in the scene's unit of length.
        size: Height and width that the intrinsics are for; by default those of the image file.
    """

    intrinsics: Float[Tensor, "1 3 3"]
    cam_to_world: Float[Tensor, "1 4 4"]
    size: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, intrinsics: Array | Tensor, cam_to_world: Array, size: tuple[int, int] | None = None
    ) -> "Camera":
        """Return the camera of a 3x3 and a 4x4 matrix of any number type."""
        k, pose = (
            torch.as_tensor(np.asarray(matrix, dtype=np.float32))[None]
            for matrix in (intrinsics, cam_to_world)
        )
        return cls(k, pose, size)

    def intrinsics_at(self, size: tuple[int, int]) -> Float[Tensor, "1 3 3"]:
        """Return the intrinsics of the image at another resolution."""
        if self.size is None or self.size == size:
            return self.intrinsics
        return resize_intrinsics(self.intrinsics, self.size, size)

    def check(self, name: str) -> None:
        """Raise an error if this is not a valid camera.

        Args:
            name: Name of the image, for the message.

        Raises:
            CorruptError: A number is not finite, a focal length not positive, there is skew, or the
                pose is not rigid.
        """
        k, pose = self.intrinsics[0].double(), self.cam_to_world[0].double()
        if not (k.isfinite().all() and pose.isfinite().all()):
            fault = "a number that is not finite"
        elif min(k[0, 0], k[1, 1]) <= 0 or abs(k[0, 1]) > TOLERANCE * k[0, 0]:
            fault = "intrinsics with skew or without a positive focal length"
        elif not _is_rotation(pose[:3, :3]):
            fault = "a pose whose 3x3 part is not a rotation"
        elif pose[3].tolist() != [0, 0, 0, 1]:
            fault = "a pose whose last row is not 0, 0, 0, 1"
        else:
            return
        raise CorruptError(f"{name} has a camera with {fault}.", "bad camera")


def _is_rotation(matrix: Float64[Tensor, "3 3"]) -> bool:
    identity = torch.eye(3, dtype=matrix.dtype)
    orthogonal = torch.allclose(matrix @ matrix.T, identity, atol=TOLERANCE)
    return orthogonal and bool(torch.linalg.det(matrix) > 0)


def pinhole(fx: int | float, fy: int | float, cx: int | float, cy: int | float) -> Array:
    """Return a pinhole matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def from_corner(intrinsics: Array) -> Tensor:
    """Return intrinsics for pixel centres at integers from intrinsics for centres at halves.

    COLMAP and OpenGL count from the corner of the first pixel.
    """
    return crop_intrinsics(torch.tensor(intrinsics, dtype=torch.float32)[None], 0.5, 0.5)[0]


def from_opengl(cam_to_world: Array) -> Array:
    """Return a pose with OpenCV axes from one with OpenGL's (x right, y up, z backward)."""
    return cam_to_world @ np.diag([1.0, -1.0, -1.0, 1.0])


def rigid(rotation: Array, translation: Array) -> Array:
    """Return the 4x4 matrix of a rotation and a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix
