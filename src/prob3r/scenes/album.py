"""Albums: a folder of photographs of which nothing else is known, and scenes made of them."""

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
    """Scenes of photographs that lie in one folder, each drawn at random.

    Args:
        photographs: The files, as many as a scene has views or more.
        model: What frames the photographs; a model, or a `Framing`.
        count: How many scenes.
        views: How many views each scene has.
        seed: Of the draws.
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
        """Read the photographs of a scene."""
        try:
            images = [self.photographs[number] for number in self.scenes[index]]
            return Views.from_images(images, self.framing)
        except Prob3rError as error:
            raise CorruptError(str(error)) from error


class Photographs(NamedTuple):
    """The photographs of a folder.

    Attributes:
        files: In the order of their names.
        digest: 8 hexadecimal digits that change with the files' names, sizes and dates.
    """

    files: list[Path]
    digest: str


def photographs_in(folder: Path) -> Photographs:
    """Return the photographs that lie in a folder, without those of its folders."""
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    digest = hashlib.blake2b(digest_size=4)
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return Photographs(files, digest.hexdigest())
