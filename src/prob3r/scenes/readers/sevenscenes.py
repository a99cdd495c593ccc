"""7-Scenes: a moving Kinect, with the poses of KinectFusion.

    TrainSplit.txt, TestSplit.txt           "sequence1" a line
    seq-01/frame-000000.color.png
    seq-01/frame-000000.depth.png           16-bit millimetres, 0 or 65535 where unknown
    seq-01/frame-000000.depth.proj.png      instead: the same, moved into the colour camera
    seq-01/frame-000000.pose.txt            cam_to_world, 4x4, OpenCV axes, metres

The path is a scene's folder, a folder of scenes, one sequence, or one of the split files. Colour
and depth are not registered to each other. As usual, both are treated as images of the depth
camera, with the focal length that the authors give. If a preparation (SimpleRecon's, Spann3R's)
projected depth into the colour camera, that depth and that camera's focal length are used.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, pinhole
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import read_table, reading

KINECT = (585.0, 585.0, 320.0, 240.0)  # fx, fy, cx, cy
COLOUR = (525.0, 525.0, 320.0, 240.0)  # the same of the colour camera
PROJECTED = ".depth.proj.png"
SIZE = (480, 640)
UNKNOWN = 65.535  # metres; the largest value of a file, which means unknown


class SevenScenes(Reader, layout="7scenes"):
    """Pairs of frames of one sequence that overlap."""

    marker = "seq-*"
    depth_unit = 1e-3
    depth_range = (0.3, 10.0)

    @classmethod
    def found(cls, path: Path) -> list[Path]:
        """Return the folders of sequences: those in a split file, else all that exist."""
        if path.match("*Split.txt"):
            numbers = [int(re.sub(r"\D", "", line[0])) for line in read_table(path)]
            return [path.parent / f"seq-{number:02d}" for number in numbers]
        return [folder for folder in super().found(path) if folder.is_dir()]

    def listing(self, found: list[Path]) -> Listing:
        """Read which frames the sequences have."""
        self.stems: list[str] = []
        names, scenes = [], []
        for folder in found:
            scene = f"{folder.resolve().parent.name}/{folder.name}"
            for file in sorted(folder.glob("frame-*.color.png")):
                stem = file.name.removesuffix(".color.png")
                self.stems.append(str(folder / stem))
                scenes.append(scene)
                names.append(f"{scene}/{stem}")
        self.projected = bool(self.stems) and Path(f"{self.stems[0]}{PROJECTED}").exists()
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return Path(f"{self.stems[frame]}.color.png")

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return Path(f"{self.stems[frame]}{PROJECTED if self.projected else '.depth.png'}")

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in metres, 0 where unknown."""
        depth = super().depth(frame)
        return depth.where(depth < UNKNOWN - self.depth_unit / 2, 0.0)

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = Path(f"{self.stems[frame]}.pose.txt")
        with reading(file):
            pose = np.array(read_table(file), dtype=np.float64)
        if pose.shape != (4, 4):
            raise CorruptError(f"{file} must hold 4 rows of 4 numbers.", "bad camera")
        return Camera.of(pinhole(*(COLOUR if self.projected else KINECT)), pose, SIZE)
