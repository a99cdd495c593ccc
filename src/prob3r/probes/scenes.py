"""The scenes that banks are fitted on: rooms, data sets, or a folder of photographs."""

from pathlib import Path
from typing import NamedTuple

import torch

from prob3r.errors import Prob3rError
from prob3r.models import Model
from prob3r.scenes.album import Album, photographs_in
from prob3r.scenes.readers import READERS
from prob3r.scenes.sampling import sample
from prob3r.scenes.several import open_views
from prob3r.scenes.source import Folders, Scenes, Subset
from prob3r.scenes.views import Views

ROOMS = "rooms:train"
"""The scenes that banks are fitted on by default."""

HELD_OUT = 8  # scenes


class FitScenes(NamedTuple):
    """The scenes to fit a bank on.

    Attributes:
        name: Their name; see `full_name`.
        scenes: The scenes that are fitted on.
        held_out: The scenes that choose the regularisers.
        seed: The seed of the sample.
    """

    name: str
    scenes: Scenes[Views]
    held_out: Scenes[Views]
    seed: int = 0

    @property
    def title(self) -> str:
        """The name without the digest of photographs."""
        return title_of(self.name)

    @property
    def truth(self) -> bool:
        """Whether the true pointmaps of the first scene are known."""
        return self.scenes.batch([0]).has_truth


def full_name(name: str) -> str:
    """Return a name that means the same scenes in every working directory: its path is absolute.

    The name of a folder of photographs ends in a digest, which changes with the files in it.
    """
    layout, colon, rest = name.partition(":")
    if colon and layout in READERS:
        return f"{layout}:{Path(rest).resolve()}"
    if not (path := _path(name)).exists():
        return name
    path = path.resolve()
    return f"{path}#{photographs_in(path).digest}" if is_album(path) else str(path)


def title_of(name: str) -> str:
    """Return a full name without the digest of photographs."""
    return name.rpartition("#")[0] or name


def _path(name: str) -> Path:
    """Return the path in a name, which may be a full one."""
    return Path(name if Path(name).exists() else title_of(name))


def is_album(path: Path) -> bool:
    """Return whether a path is a folder of photographs, and not a pair or a data set."""
    return (
        path.is_dir()
        and not Folders.found(path)
        and not any(known.found(path) for known in READERS.values())
        and len(photographs_in(path).files) > 0
    )


def fit_scenes(
    name: str, model: Model, count: int, views: int = 2, seed: int = 0, held_out: int = HELD_OUT
) -> FitScenes:
    """Return the scenes to fit a bank on, and others that are held out.

    For rooms, scenes of the validation split are held out. For a data set, other scenes of the
    sample are held out. For a folder, an eighth of the photographs is held out, but at least as
    many as a scene has views; the held-out scenes are drawn from them.

    Args:
        name: As for `open_pairs`, or a folder of photographs without truth.
        model: The model.
        count: The number of scenes to fit on. If there are fewer, all are used.
        views: The number of views of each scene.
        seed: The seed of the sample.
        held_out: The number of scenes to hold out, at most a quarter of a data set's sample.

    Raises:
        Prob3rError: Nothing has this name, or there are too few scenes.
    """
    device, full = next(model.parameters()).device, full_name(name)
    if is_album(path := _path(name)):
        return _of_album(path, model, count, views, seed, held_out)
    found = _open(name, model, views, device)
    if name == ROOMS:
        validation = _open("rooms:validation", model, views, device)
        kept = sample(validation, held_out, seed)
        return FitScenes(full, sample(found, count, seed), kept, seed)
    drawn = sample(found, count + held_out, seed)
    held = min(held_out, len(drawn) // 4)
    if not held:
        raise Prob3rError(f"{name} has {len(drawn)} scenes; fitting probes needs at least four.")
    first, last = range(len(drawn) - held), range(len(drawn) - held, len(drawn))
    fitted = Subset(drawn, first, f"{len(first)} of {drawn.words}")
    return FitScenes(full, fitted, Subset(drawn, last), seed)


def _of_album(
    path: Path, model: Model, count: int, views: int, seed: int, held_out: int
) -> FitScenes:
    files = photographs_in(path).files
    held = max(views, len(files) // 8)
    if len(files) < 3 * views:
        raise Prob3rError(
            f"{path} holds {len(files)} photographs; fitting probes needs at least {3 * views}."
        )
    kept = files[:: len(files) // held][:held]
    others = [file for file in files if file not in kept]
    words = f"{count} draws of {views} among {len(others)} photographs with seed {seed}"
    drawn = Album(others, model, count, views, seed)
    return FitScenes(
        full_name(str(path)),
        Subset(drawn, range(count), words),
        Album(kept, model, held_out, views, seed),
        seed,
    )


def _open(name: str, model: Model, views: int, device: torch.device) -> Scenes[Views]:
    return open_views(name, model, views, device)
