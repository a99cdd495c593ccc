"""HPatches: photographs of planar scenes, with the homographies between them.

v_SEQUENCE/1.ppm … 6.ppm        v: the viewpoint changes; i: the light does
v_SEQUENCE/H_1_2 … H_1_6        the homography from image 1 to image 2, …, in pixels

There are no cameras and no depth: pairs have true matches, and no other truth.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import PixelMatches, patch_of_pixels, pixel_grid, transfer
from prob3r.scenes.framing import Crop, FramesImages, Framing
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import image_size, read_table, reading
from prob3r.scenes.readers.items import Items
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair

IMAGES = range(2, 7)  # images other than image 1


class HPatches(Items):
    """Image 1 with each other image of every sequence whose viewpoint changes.

    Args:
        path: The folder of the sequences.
        model: The model that the images are framed for, or a `Framing`.

    Attributes:
        pairs: The folder of the sequence and the number of view 2's image, for each pair.

    Raises:
        Prob3rError: There is no such sequence.
    """

    def __init__(self, path: Path, model: FramesImages | Framing):
        self.framing = Framing.of(model)
        self.pairs = [(folder, k) for folder in sorted(path.glob("v_*")) for k in IMAGES]
        if not self.pairs:
            raise Prob3rError(f"{path} holds no v_SEQUENCE; give the folder of HPatches.")

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Pair:
        """Read one pair, as a batch of one named after its images."""
        folder, other = self.pairs[index]
        views = [self._view(folder / f"{number}.ppm") for number in (1, other)]
        names = (f"{folder.name}/1, {folder.name}/{other}",)
        return Pair(views[0], views[1], names, (folder.name,))

    def homography(self, index: int) -> Float[Tensor, "3 3"]:
        """Return the homography from image 1 to the other image, in pixels of the files."""
        folder, other = self.pairs[index]
        file = folder / f"H_1_{other}"
        with reading(file):
            matrix = np.array(read_table(file), dtype=np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise CorruptError(f"{file} must hold 3 rows of 3 numbers.")
        return torch.from_numpy(matrix)

    def crops(self, index: int) -> tuple[Crop, Crop]:
        """Return the crops of the framed views in the photographs of a pair."""
        folder, other = self.pairs[index]
        sizes = (image_size(folder / f"{number}.ppm") for number in (1, other))
        first, second = (self.framing.crop_of(size) for size in sizes)
        return first, second

    def matches(self, index: int) -> PixelMatches:
        """Return the positions of view 2's pixels in view 1, in pixels of the framed views."""
        first, second = self.crops(index)
        grid = pixel_grid(*second.size, dtype=torch.float64)
        there = transfer(second.to_photograph(grid), self.homography(index).inverse())
        pixels = first.from_photograph(there).float()[None]
        _, inside = patch_of_pixels(pixels, *first.size, 1)
        return PixelMatches(pixels, inside)

    def _view(self, file: Path) -> View:
        with reading(file):
            return View.from_image(file, self.framing)
