"""Neural RGB-D: rendered rooms with exact poses.

SCENE/images/img0.png
SCENE/depth/depth0.png      16-bit millimetres, 0 where unknown
SCENE/poses.txt             cam_to_world, 4 lines of 4 numbers a frame, OpenGL axes, metres
"""

from pathlib import Path

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_opengl, pinhole
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import Array, read_table

PINHOLE = (554.2562584220408, 554.2562584220408, 320.0, 240.0)  # fx, fy, cx, cy
SIZE = (480, 640)


class NRGBD(Reader, layout="nrgbd"):
    """Pairs of frames of one scene that overlap."""

    marker = "poses.txt"
    depth_unit = 1e-3
    depth_range = (0.1, 20.0)

    def listing(self, found: list[Path]) -> Listing:
        """Read the poses of every scene; a frame's number is its place among them."""
        self.stems: list[tuple[Path, int]] = []
        self.poses: list[Array] = []
        names, scenes = [], []
        for file in found:
            rows = np.array(read_table(file), dtype=np.float64)
            for number, pose in enumerate(rows.reshape(-1, 4, 4)):
                self.stems.append((file.parent, number))
                self.poses.append(pose)
                scenes.append(file.resolve().parent.name)
                names.append(f"{scenes[-1]}/img{number}")
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        folder, number = self.stems[frame]
        return folder / "images" / f"img{number}.png"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        folder, number = self.stems[frame]
        return folder / "depth" / f"depth{number}.png"

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        pose = self.poses[frame]
        if not np.isfinite(pose).all():
            raise CorruptError(f"{self.names[frame]} has no pose.", "bad camera")
        return Camera.of(pinhole(*PINHOLE), from_opengl(pose), SIZE)
