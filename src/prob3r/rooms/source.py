"""Rooms by name: `rooms:SPLIT` and `lookalikes:SPLIT`; `@SIZE` asks for square views of a size."""

import torch

from prob3r.errors import Prob3rError
from prob3r.rooms.dataset import SPLITS, Rooms
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.source import SOURCES, Source
from prob3r.scenes.views import Views


def open_rooms(
    name: str, model: FramesImages | Framing, device: torch.device | str = "cpu"
) -> Rooms | None:
    """Return the rooms of this name, or None if the name is not that of rooms.

    Args:
        name: `rooms:SPLIT`, or `lookalikes:SPLIT` for scenes with copies of one object. `@SIZE` at
            the end asks for square views of this side in pixels; by default the views have the size
            of the model's images.
        model: The model that the rooms are for, or its framing.
        device: The device that renders.

    Raises:
        Prob3rError: The size is not a positive multiple of the model's patch.
    """
    asked = _asked(name, model)
    return None if asked is None else Rooms(*asked, device=device, compile=False)


def open_room_views(
    name: str, model: FramesImages | Framing, device: torch.device | str, views: int
) -> Rooms[Views] | None:
    """Return the rooms of this name with a number of views; otherwise as `open_rooms`."""
    asked = _asked(name, model)
    return None if asked is None else Rooms(*asked, device=device, compile=False, views=views)


EXAMPLES = tuple(f"rooms:{split}" for split in SPLITS)
SOURCES["rooms"] = Source(open_rooms, open_room_views, EXAMPLES)
SOURCES["lookalikes"] = Source(open_rooms, open_room_views)


def _asked(name: str, model: FramesImages | Framing) -> tuple[str, tuple[int, int], bool] | None:
    """Return the split, size and look-alikes that a name asks for; None for any other name."""
    layout, _, rest = name.partition(":")
    split, at, side = rest.partition("@")
    if split not in SPLITS:
        return None
    size = _asked_size(name, side, model) if at else _room_size(model)
    return split, size, layout == "lookalikes"


def _asked_size(name: str, side: str, model: FramesImages | Framing) -> tuple[int, int]:
    """Return the size that a name asks for; raise Prob3rError if it is no multiple of the patch."""
    patch = Framing.of(model).patch
    if not side.isdecimal() or int(side) == 0 or int(side) % patch:
        raise Prob3rError(
            f"The pairs '{name}' cannot be shown at '{side}' pixels: give a positive multiple of "
            f"the model's patch, {patch}, such as {name.partition('@')[0]}@{8 * patch}."
        )
    return int(side), int(side)


def _room_size(model: FramesImages | Framing) -> tuple[int, int]:
    if isinstance(model, Framing):
        return model.crop_of((model.size, model.size)).size
    return model.config.image_size
