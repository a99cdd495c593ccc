"""ScanNet++ after DUSt3R's preprocessing: rendered depth, pairs listed.

all_metadata.npz            scenes, sceneids, images, intrinsics, trajectories, pairs
SCENE/images/NAME.jpg
SCENE/depth/NAME.png        16-bit millimetres, 0 where unknown
"""

from pathlib import Path

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner
from prob3r.scenes.readers.files import array_names, read_arrays


class ScanNetPP(Reader, layout="scannetpp"):
    """The pairs that `all_metadata.npz` lists.

    The preprocessing writes intrinsics in COLMAP's convention, with pixel centres at halves.
    """

    marker = "all_metadata.npz"
    depth_unit = 1e-3
    depth_range = (0.05, 20.0)

    @classmethod
    def found(cls, path: Path) -> list[Path]:
        """Return the metadata files with trajectories; those of MegaDepth have none."""
        return [file for file in super().found(path) if "trajectories" in array_names(file)]

    def listing(self, found: list[Path]) -> Listing:
        """Read the arrays of all scenes and keep them in memory."""
        scenes, of, images, self.intrinsics, self.poses, pairs = read_arrays(
            found[0], "scenes", "sceneids", "images", "intrinsics", "trajectories", "pairs"
        )
        self.images: list[str] = images.tolist()
        of_frames = [str(scenes[scene]) for scene in of]
        names = [f"{scene}/{image}" for scene, image in zip(of_frames, self.images, strict=True)]
        return Listing(names, of_frames, pairs[:, :2])

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.root / self.scenes[frame] / "images" / f"{self.images[frame]}.jpg"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.root / self.scenes[frame] / "depth" / f"{self.images[frame]}.png"

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        return Camera.of(from_corner(self.intrinsics[frame]), self.poses[frame])
