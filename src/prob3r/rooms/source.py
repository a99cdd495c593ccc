"""Rooms by name: `rooms:SPLIT` and `lookalikes:SPLIT`, with `@SIZE` for squares of another size."""

import torch

from prob3r.errors import Prob3rError
from prob3r.rooms.dataset import SPLITS, Rooms
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.source import SOURCES, Source


def open_rooms(
    name: str, model: FramesImages | Framing, device: torch.device | str = "cpu"
) -> Rooms | None:
    """Return the rooms that a name stands for, or None if it stands for none.

    Args:
        name: `rooms:SPLIT`, or `lookalikes:SPLIT` for scenes that hold copies of one object; with
            `@SIZE` for squares of another size in pixels than the model's.
        model: What the rooms are for.
        device: Where they are rendered.

    Raises:
        Prob3rError: The size is no multiple of the model's patch.
    """
    layout, _, rest = name.partition(":")
    split, at, side = rest.partition("@")
    if split not in SPLITS:
        return None
    size = _asked_size(name, side, model) if at else _room_size(model)
    return Rooms(split, size, layout == "lookalikes", device=device, compile=False)


SOURCES["rooms"] = Source(open_rooms, tuple(f"rooms:{split}" for split in SPLITS))
SOURCES["lookalikes"] = Source(open_rooms)


def _asked_size(name: str, side: str, model: FramesImages | Framing) -> tuple[int, int]:
    """Return the size of squares that a name asks for; raise Prob3rError if it fits no patches."""
    patch = Framing.of(model).patch
    if not side.isdecimal() or int(side) == 0 or int(side) % patch:
        raise Prob3rError(
            f"The pairs '{name}' cannot be shown at '{side}' pixels: give a positive multiple of "
            f"the model's patch, {patch}, such as {name.partition('@')[0]}@{8 * patch}."
        )
    return int(side), int(side)


def _room_size(model: FramesImages | Framing) -> tuple[int, int]:
    if isinstance(model, Framing):
        return model.window((model.size, model.size)).size
    return model.config.image_size
