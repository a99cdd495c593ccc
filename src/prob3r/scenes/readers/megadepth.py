"""MegaDepth after DUSt3R's preprocessing: depth of multi-view stereo, pairs listed.

all_metadata.npz            scenes ("0015 0"), images, pairs (scene_id, im1_id, im2_id, score)
0015/0/NAME.jpg             NAME is that of the original image, with its own ending
0015/0/NAME.exr             depth in the scene's own unit, 0 where unknown
0015/0/NAME.npz             intrinsics, cam2world
"""

from pathlib import Path

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.files import array_names, optional, read_arrays


class MegaDepth(Reader, layout="megadepth"):
    """The pairs that `all_metadata.npz` lists."""

    marker = "all_metadata.npz"

    @classmethod
    def found(cls, path: Path) -> list[Path]:
        """Return the metadata files without trajectories; those of ScanNet++ have trajectories."""
        return [file for file in super().found(path) if "trajectories" not in array_names(file)]

    def listing(self, found: list[Path]) -> Listing:
        """Read the frames that pairs are made of."""
        optional("OpenEXR", "exr")
        scenes, images, listed = read_arrays(found[0], "scenes", "images", "pairs")
        scene, first, second = (listed[name] for name in ("scene_id", "im1_id", "im2_id"))
        # An image belongs to one scene: the scene of any pair that contains it.
        of = np.zeros(len(images), dtype=int)
        of[first], of[second] = scene, scene
        used, numbers = np.unique(np.stack([first, second], axis=1), return_inverse=True)
        of_frames = ["/".join(str(scenes[scene]).split()) for scene in of[used]]
        names = [f"{s}/{image}" for s, image in zip(of_frames, images[used], strict=True)]
        return Listing(names, of_frames, numbers.reshape(-1, 2))

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.root / f"{self.names[frame]}.jpg"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.root / f"{self.names[frame]}.exr"

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self.root / f"{self.names[frame]}.npz"
        intrinsics, pose = read_arrays(file, "intrinsics", "cam2world")
        return Camera.of(intrinsics, pose)
