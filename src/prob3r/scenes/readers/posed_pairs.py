"""MegaDepth-1500 in the layout of glue-factory's megadepth1500.zip: posed images, listed pairs.

views.txt       image, R (9 numbers), t (3), COLMAP's camera: model, width, height, parameters;
                world_to_cam
pairs.txt       image1 image2, a line a pair
images/IMAGE
depths/STEM.h5  not read: the pose is all that the protocol asks for
"""

from pathlib import Path

import numpy as np

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner, pinhole, rigid
from prob3r.scenes.readers.files import read_table

PARAMETERS = {"PINHOLE": (0, 1, 2, 3), "SIMPLE_PINHOLE": (0, 0, 1, 2)}
"""Where fx, fy, cx and cy are among a camera's parameters, by COLMAP's model."""


class PosedPairs(Reader, layout="posed-pairs"):
    """The pairs of `pairs.txt`."""

    marker = "views.txt"
    has_depth = False

    def listing(self, found: list[Path]) -> Listing:
        """Read the views and the pairs of every folder with both."""
        self.images: list[Path] = []
        self.cameras: list[Camera] = []
        names, scenes, pairs = list[str](), list[str](), list[tuple[int, int]]()
        for file in found:
            numbers = {}
            for words in read_table(file):
                numbers[words[0]] = len(names)
                self.images.append(file.parent / "images" / words[0])
                self.cameras.append(_camera(words, file))
                names.append(words[0])
                # Names are SCENE/…/IMAGE where the views are of several scenes.
                scenes.append(words[0].split("/")[0] if "/" in words[0] else file.parent.name)
            for first, second, *_ in read_table(file.with_name("pairs.txt")):
                unknown = [name for name in (first, second) if name not in numbers]
                if unknown:
                    raise Prob3rError(f"{file} has no view {unknown[0]}, which pairs.txt lists.")
                pairs.append((numbers[first], numbers[second]))
        return Listing(names, scenes, np.array(pairs))

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.images[frame]

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        return self.cameras[frame]


def _camera(words: list[str], file: Path) -> Camera:
    """Return the camera of a line."""
    if len(words) < 16 or words[13] not in PARAMETERS:
        model = words[13] if len(words) > 13 else "nothing"
        raise Prob3rError(
            f"{file}: the camera of {words[0]} is {model}; it must be one of "
            f"{', '.join(PARAMETERS)}, since prob3r's cameras are pinholes."
        )
    motion, parameters = np.array(words[1:13], float), np.array(words[16:], float)
    fx, fy, cx, cy = (parameters[i] for i in PARAMETERS[words[13]])
    return Camera.of(
        from_corner(pinhole(fx, fy, cx, cy)),
        np.linalg.inv(rigid(motion[:9].reshape(3, 3), motion[9:])),
        (int(words[15]), int(words[14])),
    )
