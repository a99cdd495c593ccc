"""ScanNet-1500 and other lists of calibrated pairs: two images, intrinsics and a relative pose.

pairs_calibrated.txt        image1 image2, K1 (9 numbers), K2 (9), and the motion from camera 1's
                            frame to camera 2's: R (9) and t (3), or a 4x4 matrix (16); a line
                            a pair, as glue-factory's scannet1500.zip has it
scannet_test_pairs_with_gt.txt      image1 image2, two quarter turns, K1, K2, 4x4 matrix, as
                            SuperGlue's repository has it; images that need turns are refused
"""

from pathlib import Path

import numpy as np

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, rigid
from prob3r.scenes.readers.files import Array, read_table

SUPERGLUE = 38  # words of a line in SuperGlue's list
OTHERS = (32, 36)


class CalibratedPairs(Reader, layout="calibrated-pairs"):
    """Listed pairs whose images stand beside the list; poses are known within each pair alone."""

    marker = "*pairs_calibrated.txt"
    has_depth = False
    pairwise = True

    @classmethod
    def found(cls, path: Path) -> list[Path]:
        """Return the lists of either name."""
        if path.match("*pairs_with_gt.txt") and path.exists():
            return [path]
        return super().found(path) or sorted(path.glob("*pairs_with_gt.txt"))

    def listing(self, found: list[Path]) -> Listing:
        """Read the list: every pair brings two frames of its own, even of an image used before."""
        self.images: list[Path] = []
        self.cameras: list[Camera] = []
        names, scenes = [], []
        for file in found:
            for number, words in enumerate(read_table(file)):
                self.cameras += _cameras(words, f"line {number + 1} of {file}")
                self.images += [file.parent / name for name in words[:2]]
                names += [f"{number:05d}/{name}" for name in words[:2]]
                scenes += [_scene(words[0])] * 2
        pairs = np.arange(len(names)).reshape(-1, 2)
        return Listing(names, scenes, pairs)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.images[frame]

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame; camera 1 of its pair is where the world's frame is."""
        return self.cameras[frame]


def _cameras(words: list[str], where: str) -> list[Camera]:
    """Return the two cameras of a line."""
    if len(words) == SUPERGLUE:
        if words[2:4] != ["0", "0"]:
            raise Prob3rError(f"{where}: images that have to be turned first are not read.")
        words = words[:2] + words[4:]
    if len(words) not in OTHERS:
        raise Prob3rError(
            f"{where} has {len(words)} words; a calibrated pair has 32, 36 or 38: two images, two "
            "3x3 intrinsics, and the motion from camera 1 to camera 2."
        )
    numbers = np.array(words[2:], dtype=np.float64)
    k1, k2 = numbers[:18].reshape(2, 3, 3)
    return [Camera.of(k1, np.eye(4)), Camera.of(k2, np.linalg.inv(_motion(numbers[18:])))]


def _motion(numbers: Array) -> Array:
    if len(numbers) == 16:
        return numbers.reshape(4, 4)
    return rigid(numbers[:9].reshape(3, 3), numbers[9:])


def _scene(image: str) -> str:
    """Return the scene that an image is of: its folder that is no plain colour folder."""
    folders = [part for part in Path(image).parts[:-1] if "scene" in part]
    return folders[-1] if folders else Path(image).parts[0].split("_frame")[0]
