"""Scenes of any number of views, opened by name."""

import torch

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import CorruptError, Items, Reader
from prob3r.scenes.readers.sets import sets_by_covisibility, sets_by_stride
from prob3r.scenes.source import SOURCES, Folders, Scenes, open_pairs
from prob3r.scenes.views import Views


class ViewFolders(Items[Views]):
    """Scenes of several photographs: folders whose `pair.json` names so many.

    Args:
        folders: The folders.
        views: How many photographs each must have.
    """

    def __init__(self, folders: Folders, views: int):
        self.folders, self.views = folders, views

    def __len__(self) -> int:
        return len(self.folders)

    def read(self, index: int) -> Views:
        """Read the views of a folder, by the order of the folders' names."""
        folder = self.folders.folders[index]
        try:
            found = Views.from_folder(folder, self.folders.framing)
        except Prob3rError as error:
            raise CorruptError(str(error)) from error
        if found.count != self.views:
            raise CorruptError(f"{folder} holds {found.count} views, not {self.views}.")
        return found


def open_views(
    name: str,
    model: FramesImages | Framing,
    views: int,
    device: torch.device | str = "cpu",
    *,
    stride: int | None = None,
    seed: int = 0,
    strict: bool = True,
) -> Scenes[Views]:
    """Return scenes of several views that a name stands for, at the size that a model takes.

    Of a data set, each scene starts with a pair and grows by frames that overlap with one already
    in; `prob3r.scenes.readers.sets` has sets by name, too.

    Args:
        name: As for `open_pairs`.
        model: What the views are for.
        views: How many views each scene has, the reference first; of two it is a pair.
        device: Where rooms are rendered.
        stride: Take frames so far apart in a recording instead of growing by overlap.
        seed: Of the growing.
        strict: As for a `Reader`.

    Raises:
        Prob3rError: The name stands for nothing, or for pairs alone, or there are no such scenes.
    """
    if views == 2 and stride is None:
        return open_pairs(name, model, device, strict=strict)
    layout = name.partition(":")[0]
    if layout in SOURCES and stride is None:
        opened = SOURCES[layout].open_views(name, model, device, views)
        if opened is not None:
            return opened
    pairs = open_pairs(name, model, device, strict=strict)
    if isinstance(pairs, Folders) and stride is None:
        return ViewFolders(pairs, views)
    if isinstance(pairs, Reader):
        if stride is not None:
            return sets_by_stride(pairs, views, stride)
        return sets_by_covisibility(pairs, views, seed)
    raise Prob3rError(
        f"'{name}' has no recording to take {views} views from; give a data set, or rooms without "
        "a stride."
    )
