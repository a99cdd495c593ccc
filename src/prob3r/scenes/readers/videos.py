"""Videos with depth and without cameras: each sequence is one scene of all its frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers.files import read_depth, reading
from prob3r.scenes.readers.items import Items
from prob3r.scenes.view import View
from prob3r.scenes.views import Views, views_of


class Film(NamedTuple):
    """The files of one sequence, frame by frame.

    Attributes:
        name: Name of the sequence.
        first: Number of the first frame in the recording, counted from 0.
        images: The image of each frame.
        depths: The depth of each frame.
    """

    name: str
    first: int
    images: Sequence[Path]
    depths: Sequence[Path]

    @classmethod
    def between(
        cls, name: str, images: Path, depths: Path, first: int = 0, end: int | None = None
    ) -> "Film":
        """Return the PNG files of two folders in the order of their names.

        Args:
            name: Name of the sequence.
            images: Folder of the images.
            depths: Folder of the depth files.
            first: Number of the first file to use, from 0.
            end: Number after the last file to use; by default all are used.

        Raises:
            Prob3rError: There are fewer than two frames, or the numbers of images and depth files
                differ.
        """
        pictures, measured = (
            sorted(folder.glob("*.png"))[first:end] for folder in (images, depths)
        )
        if len(pictures) < 2 or len(pictures) != len(measured):
            raise Prob3rError(
                f"{images} has {len(pictures)} frames and {depths} {len(measured)}, from number "
                f"{first} on; there must be two or more, and equal numbers of both."
            )
        return cls(name, first, pictures, measured)


class Videos(Items[Views]):
    """Sequences of frames with depth.

    Args:
        films: The sequences.
        unit: Factor from the values of a depth file to the unit of length.
        model: The model that the images are framed for, or a `Framing`.
    """

    def __init__(self, films: Sequence[Film], unit: float, model: FramesImages | Framing):
        self.films, self.unit, self.framing = films, unit, Framing.of(model)

    def __len__(self) -> int:
        return len(self.films)

    def read(self, index: int) -> Views:
        """Read all frames of a sequence, as a batch of one with the name of the sequence."""
        film = self.films[index]
        views = [self._view(*files) for files in zip(film.images, film.depths, strict=True)]
        return views_of(views, (film.name,)).named(scenes=(film.name,))

    def _view(self, image: Path, depth: Path) -> View:
        measured = read_depth(depth, self.unit)
        with reading(image):
            return View.from_image(image, self.framing, depth=measured)
