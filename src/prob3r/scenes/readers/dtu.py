"""DTU after MVSNet's or Spann3R's preparation: objects, with depth and masks.

scan1/images/00000000.jpg
scan1/depths/00000000.npy           millimetres, 0 where unknown
scan1/binary_masks/00000000.png     the object, white
scan1/cams/00000000_cam.txt         `extrinsic`, 4x4 (world_to_cam), `intrinsic`, 3x3, for the size
                                    of the depth; further numbers are not read

Depth counts where the object's mask, eroded by ten pixels of the depth map, is white.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.framing import Crop
from prob3r.scenes.photographs import open_image
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.files import read_depth, reading

ERODED = 10  # side in pixels of the square around a pixel in which the mask must be white
NUMBERS = 25  # of the extrinsic and the intrinsic


class DTU(Reader, layout="dtu"):
    """Pairs of views of one scan that overlap; depth is known on the object only."""

    marker = "binary_masks"
    depth_range = (1.0, 2000.0)  # millimetres

    def listing(self, found: list[Path]) -> Listing:
        """Read which views the scans have."""
        self.stems: list[tuple[Path, str]] = []
        names, scenes = [], []
        for folder in found:
            scan = folder.resolve().parent.name
            for file in sorted((folder.parent / "images").glob("*.jpg")):
                self.stems.append((folder.parent, file.stem))
                scenes.append(scan)
                names.append(f"{scan}/{file.stem}")
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self._file(frame, "images", ".jpg")

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self._file(frame, "depths", ".npy")

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z on the object, in millimetres, 0 elsewhere."""
        depth = read_depth(self.depth_file(frame), self.depth_unit)
        size = depth.shape[0], depth.shape[1]
        file = self._file(frame, "binary_masks", ".png")
        with reading(file), open_image(file) as image:
            white = torch.from_numpy(np.array(image.convert("L"))) > 127
        full = white.shape[0], white.shape[1]
        black = 1 - Crop(full, size, 0, 0, size).nearest(white).float()
        # Pixels outside the image count as white. The square is even, so it is not centred: it
        # extends one pixel further to the left and to the top.
        padded = F.pad(black, (ERODED // 2, ERODED // 2 - 1) * 2)
        return depth * (F.max_pool2d(padded, ERODED, stride=1)[0] == 0)

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self._file(frame, "cams", "_cam.txt")
        with reading(file):
            words = file.read_text(encoding="utf-8").split()
            numbers = np.array([w for w in words if w not in ("extrinsic", "intrinsic")], float)
            motion, intrinsics = np.split(numbers[:NUMBERS], [16])
        with reading(self.depth_file(frame)):
            size = np.load(self.depth_file(frame), mmap_mode="r").shape[:2]
        return Camera.of(
            intrinsics.reshape(3, 3), np.linalg.inv(motion.reshape(4, 4)), (size[0], size[1])
        )

    def _file(self, frame: int, folder: str, ending: str) -> Path:
        root, stem = self.stems[frame]
        return root / folder / f"{stem}{ending}"
