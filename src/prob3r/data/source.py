"""Sources of pairs, by the name that a command line gives them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from prob3r.data.framing import FramesImages, Framing
from prob3r.data.pair import Pair, stack
from prob3r.data.rooms.dataset import SPLITS, Rooms
from prob3r.errors import Prob3rError


@runtime_checkable
class Pairs(Protocol):
    """Pairs that can be asked for by number."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, indices: Sequence[int]) -> Pair:
        """Return some of them as one batch."""


class Folders:
    """Pairs of photographs: a folder with a `pair.json`, or a folder of such folders.

    Args:
        path: The folder.
        model: What frames the photographs; a model, or a `Framing`.

    Raises:
        Prob3rError: There is no pair in the folder.
    """

    def __init__(self, path: Path, model: FramesImages | Framing):
        self.model = model
        self.folders = sorted(
            f.parent for f in [*path.glob("pair.json"), *path.glob("*/pair.json")]
        )
        if not self.folders:
            raise Prob3rError(f"{path} holds no pair: no pair.json in it or in its folders.")

    def __len__(self) -> int:
        return len(self.folders)

    def batch(self, indices: Sequence[int]) -> Pair:
        """Return the pairs of these numbers, in the order of their folders' names."""
        return stack([Pair.from_folder(self.folders[i], self.model) for i in indices])


def open_pairs(name: str, model: FramesImages, device: torch.device | str = "cpu") -> Pairs:
    """Return the pairs that a name stands for, at the size that a model takes.

    Args:
        name: `rooms:train`, `rooms:validation` or `rooms:test`, or the path of a folder of pairs.
        model: What the pairs are for.
        device: Where rooms are rendered.

    Raises:
        Prob3rError: The name stands for nothing.
    """
    kind, _, split = name.partition(":")
    if kind == "rooms":
        for known in SPLITS:
            if split == known:
                return Rooms(known, size=model.config.image_size, device=device, compile=False)
    if kind == "rooms" or not Path(name).is_dir():
        raise Prob3rError(
            f"There are no pairs '{name}': give rooms:train, rooms:validation, rooms:test, or the "
            "path of a folder with a pair.json."
        )
    return Folders(Path(name), model)


def batches(pairs: Pairs, count: int, size: int) -> Iterator[Pair]:
    """Yield the first `count` pairs, or all if there are fewer, in even batches of at most `size`.

    Batches differ by one pair at most, so that none is a lone pair if `size` is at least 3.
    """
    count = min(count, len(pairs))
    for part in torch.arange(count).tensor_split(-(-count // size)):
        yield pairs.batch(part.tolist())
