"""MPI Sintel: frames of a film, with the depth and the cameras that rendered them.

final/alley_2/frame_0001.png            or clean/
depth/alley_2/frame_0001.dpt            tag, width, height, float32 row by row, little-endian
camdata_left/alley_2/frame_0001.cam     tag, 3x3 intrinsics, 3x4 world_to_cam, float64

The path is the folder that holds these, usually called `training`.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.files import Array, reading

TAG = 202021.25  # first number of every file; detects a wrong byte order
SKY = 1e4  # units; larger depths are background without a surface


class Sintel(Reader, layout="sintel"):
    """Pairs of frames of one sequence that overlap; surfaces that moved between them count, too."""

    marker = "camdata_left"
    depth_range = (0.01, SKY)

    def listing(self, found: list[Path]) -> Listing:
        """Read which frames the sequences have."""
        self.base = found[0].parent
        files = sorted((self.base / "final").glob("*/frame_*.png"))
        names = [f"{file.parent.name}/{file.stem}" for file in files]
        return Listing(names, [file.parent.name for file in files])

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.base / "final" / f"{self.names[frame]}.png"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.base / "depth" / f"{self.names[frame]}.dpt"

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in the unit of the film, 0 where there is no surface."""
        file = self.depth_file(frame)
        with reading(file):
            data = file.read_bytes()
            _check_tag(np.frombuffer(data[:4], "<f4"))
            width, height = np.frombuffer(data[4:12], "<i4").tolist()
            steps = np.frombuffer(data[12:], "<f4").reshape(height, width)
        depth = torch.tensor(steps)
        return depth.where((depth > 0) & (depth < SKY), 0.0)

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self.base / "camdata_left" / f"{self.names[frame]}.cam"
        with reading(file):
            data = file.read_bytes()
            _check_tag(np.frombuffer(data[:4], "<f4"))
            numbers = np.frombuffer(data[4:], "<f8")
            motion = np.vstack([numbers[9:21].reshape(3, 4), [0, 0, 0, 1]])
        return Camera.of(numbers[:9].reshape(3, 3), np.linalg.inv(motion))


def _check_tag(tag: Array) -> None:
    if tag.tolist() != [TAG]:
        raise ValueError("it does not begin with Sintel's tag")
