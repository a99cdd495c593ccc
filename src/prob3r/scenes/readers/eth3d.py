"""ETH3D after pi3's preparation: photographs and depth undistorted, cameras in .npz files.

SCENE/images/custom_undistorted/DSC_0001.JPG
SCENE/ground_truth_depth/custom_undistorted/DSC_0001.JPG    raw little-endian float32, row by row,
                                                            of the image's size; metres, not
                                                            positive or not finite where unknown
SCENE/custom_undistorted_cam/DSC_0001.npz                   intrinsics, extrinsics (world_to_cam)

The preparation keeps COLMAP's principal points, which count from the image's corner.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner
from prob3r.scenes.readers.files import image_size, read_arrays, reading

FOLDER = "custom_undistorted"


class ETH3D(Reader, layout="eth3d"):
    """Pairs of photographs of one scene that overlap."""

    marker = f"{FOLDER}_cam"
    depth_range = (0.1, 200.0)

    def listing(self, found: list[Path]) -> Listing:
        """Read which photographs the scenes have, in the order of their names."""
        self.places: list[tuple[Path, str]] = []
        names, scenes = [], []
        for folder in found:
            scene = folder.resolve().parent.name
            for file in sorted((folder.parent / "images" / FOLDER).glob("*.JPG")):
                self.places.append((folder.parent, file.stem))
                scenes.append(scene)
                names.append(f"{scene}/{file.stem}")
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        root, stem = self.places[frame]
        return root / "images" / FOLDER / f"{stem}.JPG"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        root, stem = self.places[frame]
        return root / "ground_truth_depth" / FOLDER / f"{stem}.JPG"

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in metres, 0 where unknown."""
        file = self.depth_file(frame)
        height, width = image_size(self.image(frame))
        with reading(file):
            steps = np.fromfile(file, dtype="<f4").reshape(height, width)
        depth = torch.from_numpy(steps)
        return depth.where(depth.isfinite() & (depth > 0), 0.0)

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        root, stem = self.places[frame]
        intrinsics, motion = read_arrays(
            root / f"{FOLDER}_cam" / f"{stem}.npz", "intrinsics", "extrinsics"
        )
        return Camera.of(from_corner(intrinsics), np.linalg.inv(motion))
