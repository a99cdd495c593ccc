"""RealEstate10K after pi3's preparation: recordings with cameras and no depth.

SEQUENCE/annotations.json       [{"filepath", "intrinsics": 3x3 in pixels, "extrinsics": 4x4}, …]
SEQUENCE/images/0000.png        `filepath` is SEQUENCE/images/0000.png

Extrinsics are world_to_cam with OpenCV axes, in a unit of each recording's own. Principal points
are counted from the image's corner, since the data set states them as shares of its sides.
"""

import json
from pathlib import Path

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner
from prob3r.scenes.readers.files import reading


class RealEstate10K(Reader, layout="re10k"):
    """Frames of recordings of rooms and houses; without depth, pairs are a tenth of one apart."""

    marker = "annotations.json"
    has_depth = False
    frames_per_scene = 11

    def listing(self, found: list[Path]) -> Listing:
        """Read the annotations of every recording."""
        self.cameras: list[Camera] = []
        names, scenes = [], []
        for file in found:
            with reading(file):
                frames = json.loads(file.read_text(encoding="utf-8"))
            for entry in frames:
                world_to_cam = np.array(entry["extrinsics"], dtype=np.float64)
                intrinsics = from_corner(np.array(entry["intrinsics"], dtype=np.float64))
                self.cameras.append(Camera.of(intrinsics, np.linalg.inv(world_to_cam)))
                names.append(str(entry["filepath"]))
                scenes.append(file.resolve().parent.name)
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame; the path may be one recording's folder, too."""
        name = self.names[frame]
        file = self.root / name
        return file if file.exists() else self.root / Path(*Path(name).parts[1:])

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        return self.cameras[frame]
