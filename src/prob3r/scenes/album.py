"""Albums: scenes made of the photographs of a folder, without cameras or depth."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import CorruptError, Items
from prob3r.scenes.views import Views

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif")


class Album(Items[Views]):
    """Scenes whose views are drawn at random from photographs.

    Args:
        photographs: The files, at least as many as a scene has views.
        model: The model that the photographs are framed for, or a `Framing`.
        count: Number of scenes.
        views: Views of each scene.
        seed: Seed of the draws.

    Raises:
        Prob3rError: There are fewer photographs than views.
    """

    def __init__(
        self,
        photographs: Sequence[Path],
        model: FramesImages | Framing,
        count: int,
        views: int = 2,
        seed: int = 0,
    ):
        if len(photographs) < views:
            raise Prob3rError(
                f"There are {len(photographs)} photographs, and a scene takes {views}; give more."
            )
        self.framing = Framing.of(model)
        self.photographs = photographs
        drawn = random.Random(seed)
        self.scenes = [drawn.sample(range(len(photographs)), views) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.scenes)

    def read(self, index: int) -> Views:
        """Read the photographs of a scene; raise CorruptError if one cannot be used."""
        try:
            images = [self.photographs[number] for number in self.scenes[index]]
            return Views.from_images(images, self.framing)
        except Prob3rError as error:
            raise CorruptError(str(error)) from error


class AlbumFiles(NamedTuple):
    """The photographs of a folder.

    Attributes:
        files: In the order of their names.
        digest: Hash of the files' names, sizes and dates, as 8 hexadecimal digits.
    """

    files: list[Path]
    digest: str


def photographs_in(folder: Path) -> AlbumFiles:
    """Return the photographs in a folder, without those in its subfolders."""
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    digest = hashlib.blake2b(digest_size=4)
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return AlbumFiles(files, digest.hexdigest())
