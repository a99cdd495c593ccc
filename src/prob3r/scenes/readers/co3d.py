"""CO3D after DUSt3R's preprocessing: the frames of each sequence are listed, pairs are not.

selected_seqs_SPLIT.json                            {category: {sequence: [frame, …]}}
CATEGORY/SEQUENCE/images/frame000001.jpg
CATEGORY/SEQUENCE/images/frame000001.npz            camera_intrinsics, camera_pose, maximum_depth
CATEGORY/SEQUENCE/depths/frame000001.jpg.geometric.png      16 bits, 65535 is maximum_depth
CATEGORY/SEQUENCE/masks/frame000001.png             the object, 255
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.photographs import open_image
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import read_arrays, read_depth, read_json, reading

MASKED = 0.1  # masks below this share of white are background, whose depth is not reliable


class CO3D(Reader, layout="co3d"):
    """Pairs of frames of one sequence that overlap; depth is known on the object only."""

    marker = "selected_seqs_*.json"
    frames_per_scene = 20  # of about a hundred around the object

    def listing(self, found: list[Path]) -> Listing:
        """Read the sequences of all lists."""
        names = {
            f"{category}/{sequence}/frame{frame:06d}"
            for file in found
            for category, sequences in read_json(file).items()
            for sequence, frames in sequences.items()
            for frame in frames
        }
        return Listing(sorted(names), [name.rpartition("/")[0] for name in sorted(names)])

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self._file(frame, "images", ".jpg")

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self._file(frame, "depths", ".jpg.geometric.png")

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self._file(frame, "images", ".npz")
        intrinsics, pose = read_arrays(file, "camera_intrinsics", "camera_pose")
        return Camera.of(intrinsics, pose)

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z on the object, in the sequence's own unit, 0 elsewhere."""
        (farthest,) = read_arrays(self._file(frame, "images", ".npz"), "maximum_depth")
        depth = read_depth(self.depth_file(frame), float(np.nan_to_num(farthest)) / 65535)
        file = self._file(frame, "masks", ".png")
        with reading(file), open_image(file) as image:
            mask = torch.from_numpy(np.array(image.convert("L"))) > MASKED * 255
        if mask.shape != depth.shape:
            raise CorruptError(f"{file} is not of the same size as the depth.")
        return depth * mask

    def _file(self, frame: int, kind: str, ending: str) -> Path:
        return self.root / self.scenes[frame] / kind / (Path(self.names[frame]).name + ending)
