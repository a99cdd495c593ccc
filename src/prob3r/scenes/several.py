"""Scenes of any number of views, opened by name."""

import torch

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import CorruptError, Items, Reader
from prob3r.scenes.readers.sets import sets_by_covisibility, sets_by_stride
from prob3r.scenes.source import SOURCES, Folders, Scenes, open_pairs
from prob3r.scenes.views import Views


class ViewFolders(Items[Views]):
    """Scenes of several photographs: folders with a `pair.json`.

    Args:
        folders: The folders.
        views: Number of photographs that every folder must have.
    """

    def __init__(self, folders: Folders, views: int):
        self.folders, self.views = folders, views
        self.noun = f"scenes of {views} views"

    def __len__(self) -> int:
        return len(self.folders)

    def read(self, index: int) -> Views:
        """Read the views of a folder, numbered by name; raise CorruptError if that fails."""
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
    """Open scenes of several views by name, framed for a model.

    In a data set, each scene starts with a pair; then frames are added that overlap with a frame of
    the scene. See `prob3r.scenes.readers.sets`, also for sets by the names of frames.

    Args:
        name: As for `open_pairs`.
        model: The model that the views are for, or a `Framing`.
        views: Views of each scene, the reference first. Scenes of two views are pairs.
        device: Device that renders rooms.
        stride: If given, the views are frames of a recording at this distance.
        seed: Seed of the draws of added frames.
        strict: As for a `Reader`.

    Raises:
        Prob3rError: There is nothing of this name, it has pairs only, or it has no such scenes.
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
