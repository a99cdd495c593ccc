"""CO3Dv2 with the annotations of VGGT's evaluation: sequences around objects, cameras, no depth.

ANYTHING/CATEGORY_test.jgz      {sequence: [{"filepath", "R", "T", "focal_length",
                                "principal_point"}, …]}, gzipped JSON
data/CATEGORY/SEQUENCE/images/frame000001.jpg       `filepath` is what follows data/, which may
                                                    be left out

Cameras are PyTorch3D's: rows times R, plus T; x left, y up, z forward; focal length and principal
point in units of half the shorter side, from the image's middle. Depth files of CO3D are not read,
because no public protocol on these lists uses depth.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner, pinhole, rigid
from prob3r.scenes.readers.files import Array, image_size, reading

AXES = np.diag([-1.0, -1.0, 1.0])
"""From PyTorch3D's axes to OpenCV's, and back."""


class CO3Dv2(Reader, layout="co3dv2"):
    """Frames of sequences; without depth, pairs are an eighth of a sequence apart.

    Attributes:
        categories: Category of each frame.
    """

    marker = "*_test.jgz"
    has_depth = False
    frames_per_scene = 9

    def listing(self, found: list[Path]) -> Listing:
        """Read the annotations of every category, in the order of their names."""
        self.entries: list[dict[str, Any]] = []
        self.categories: list[str] = []
        names, scenes = [], []
        for file in found:
            with reading(file), gzip.open(file) as content:
                sequences = json.load(content)
            for sequence, frames in sequences.items():
                self.entries += frames
                self.categories += [file.name.removesuffix("_test.jgz")] * len(frames)
                names += [str(frame["filepath"]) for frame in frames]
                scenes += [sequence] * len(frames)
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        file = self.root / "data" / self.names[frame]
        return file if file.exists() else self.root / self.names[frame]

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        entry, size = self.entries[frame], image_size(self.image(frame))
        return Camera.of(_intrinsics(entry, size), cam_to_world(entry))


def cam_to_world(entry: dict[str, Any]) -> Array:
    """Return the pose of an annotation, with OpenCV's axes."""
    turn, shift = np.array(entry["R"], dtype=np.float64), np.array(entry["T"], dtype=np.float64)
    return np.linalg.inv(rigid(AXES @ turn.T, AXES @ shift))


def _intrinsics(entry: dict[str, Any], size: tuple[int, int]) -> Any:
    half = min(size) / 2
    fx, fy = (half * float(focal) for focal in entry["focal_length"])
    px, py = (half * float(offset) for offset in entry["principal_point"])
    return from_corner(pinhole(fx, fy, size[1] / 2 - px, size[0] / 2 - py))
