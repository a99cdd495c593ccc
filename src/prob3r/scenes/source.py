"""Sources of pairs: open them by name, and read them in batches.

Every object with a length and a method `batch` is a source of pairs (`Pairs`): procedural rooms,
folders of photographs, and the data sets of `prob3r.scenes.readers`. `prob3r.scenes.sampling`
selects pairs.

    pairs = open_pairs("tum:rgbd_dataset_freiburg1_desk", model)
    pairs = select(sample(pairs, 1000, seed=0), overlap=(0.3, 0.8), rotation=(5, 60))
    for pair in batches(pairs, len(pairs), 32):
        ...
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import READERS, CorruptCount, CorruptError, Items, kind
from prob3r.scenes.readers.items import Seen
from prob3r.scenes.views import Pair, Views, stack

T = TypeVar("T")
Seen_co = TypeVar("Seen_co", bound=Views, covariant=True)


@runtime_checkable
class Scenes(Protocol[Seen_co]):
    """Scenes of several views that are read by number; `Pairs` are scenes of two views."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, indices: Sequence[int]) -> Seen_co:
        """Return some of them as one batch."""


@runtime_checkable
class Pairs(Protocol):
    """Pairs that are read by number."""

    def __len__(self) -> int:
        """Return how many there are."""

    def batch(self, indices: Sequence[int]) -> Pair:
        """Return some of them as one batch."""


class Independent:
    """Base class of pairs that are independent random draws, such as procedural rooms.

    No two of them share a view or a scene, so the first N are a random sample.
    """


class Source(NamedTuple):
    """Functions that open pairs by name, such as `rooms:test`.

    Attributes:
        open: Takes the name, the model or framing, and the device that renders; returns None if
            there are no pairs of this name.
        open_views: The same for scenes of several views; takes the number of views as well.
        examples: Names that it knows, for error messages.
    """

    open: Callable[[str, FramesImages | Framing, torch.device | str], Pairs | None]
    open_views: Callable[
        [str, FramesImages | Framing, torch.device | str, int], Scenes[Views] | None
    ]
    examples: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {}
"""Sources that are not data sets on disk, by the part of their names before the colon.

A module that makes pairs adds its source here, as `prob3r.rooms` does.
"""


class Folders(Items):
    """Pairs of photographs: a folder with a `pair.json`, or a folder of such folders.

    Args:
        path: The folder.
        model: The model that the photographs are framed for, or a `Framing`.

    Raises:
        Prob3rError: There is no pair in the folder.
    """

    def __init__(self, path: Path, model: FramesImages | Framing):
        self.framing = Framing.of(model)
        self.folders = self.found(path)
        if not self.folders:
            raise Prob3rError(f"{path} holds no pair: no pair.json in it or in its folders.")

    @staticmethod
    def found(path: Path) -> list[Path]:
        """Return the folders with a `pair.json`: the path itself and its subfolders."""
        return sorted(file.parent for end in ("", "*/") for file in path.glob(f"{end}pair.json"))

    def __len__(self) -> int:
        return len(self.folders)

    def read(self, index: int) -> Pair:
        """Read the pair of a folder, numbered by name; raise CorruptError if that fails."""
        try:
            return Pair.from_folder(self.folders[index], self.framing)
        except Prob3rError as error:
            raise CorruptError(str(error)) from error


class Subset(Generic[Seen]):
    """Some of the pairs, or of the scenes, of a source.

    Args:
        pairs: The source.
        indices: Numbers of the pairs in the source, in the order of the subset.
        words: How they were selected, for results; see `describe`.
    """

    def __init__(self, pairs: Scenes[Seen], indices: Sequence[int], words: str = ""):
        self.pairs = pairs
        self.indices = indices
        self.words = words

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Seen:
        """Return one pair, as a batch of one."""
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Seen:
        """Return some of the pairs as one batch."""
        return self.pairs.batch([self.indices[i] for i in indices])


class Resized(Generic[Seen]):
    """The pairs, or the scenes, of a source at the size of another model.

    Args:
        pairs: The source.
        model: The model, or its framing; see `Views.resized_for`.
    """

    def __init__(self, pairs: Scenes[Seen], model: FramesImages | Framing):
        self.pairs = pairs
        self.framing = Framing.of(model)

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, indices: Sequence[int]) -> Seen:
        """Return some of the pairs as one batch."""
        return self.pairs.batch(indices).resized_for(self.framing)


def open_pairs(
    name: str,
    model: FramesImages | Framing,
    device: torch.device | str = "cpu",
    *,
    strict: bool = True,
) -> Pairs:
    """Open pairs by name, framed for a model.

    Args:
        name: `rooms:train`, `rooms:validation` or `rooms:test`; with `lookalikes` in place of
            `rooms`, rooms with copies of one object. `@SIZE` at the end, as in `rooms:test@64`,
            asks for square views of this side in pixels. Or `LAYOUT:PATH`, a data set with a layout
            of `prob3r.scenes.readers`. Or the path of a folder of pairs, or of a data set whose
            layout can be recognised.
        model: The model that the pairs are for, or a `Framing`.
        device: Device that renders rooms.
        strict: As for a `Reader`.

    Raises:
        Prob3rError: There is nothing of this name, the layout is not clear, the size is not a
            multiple of the model's patch, or the data set cannot be used.
    """
    layout, _, rest = name.partition(":")
    if layout in SOURCES:
        opened = SOURCES[layout].open(name, model, device)
        if opened is not None:
            return opened
    if layout in READERS:
        return READERS[layout](rest, model, strict=strict)
    if layout in SOURCES or not Path(name).exists():
        known = [example for source in SOURCES.values() for example in source.examples]
        raise Prob3rError(
            f"There are no pairs '{name}': give {', '.join(known)}, the path of a folder with a "
            f"pair.json, or LAYOUT:PATH with a layout of {', '.join(READERS)}."
        )
    recognised = [known for known in READERS.values() if known.found(Path(name))]
    if Folders.found(Path(name)) or not recognised:
        return Folders(Path(name), model)
    if len(recognised) > 1:
        raise Prob3rError(
            f"{name} could be of the layout {' or '.join(r.layout for r in recognised)}; say "
            f"which, as in {recognised[0].layout}:{name}."
        )
    return recognised[0](name, model, strict=strict)


def batches(pairs: Scenes[Seen], count: int, size: int, *, workers: int = 0) -> Iterator[Seen]:
    """Yield the first `count` pairs, or all if there are fewer, in batches of at most `size`.

    The sizes of batches differ by at most one pair, so no batch is a single pair if `size` is at
    least 3. All pairs of a batch have the same image sizes and the same kinds of ground truth.
    Pairs that differ in these are collected in batches of their own, which are yielded when they
    are full, or at the end. A corrupt item is skipped and named in the log.

    Args:
        pairs: Pairs, or scenes of any number of views.
        count: Number of pairs.
        size: Size of the largest batch.
        workers: Processes that read ahead; with 0, this process reads.

    Raises:
        Prob3rError: More than 1 % of the pairs are corrupt.
    """
    count = min(count, len(pairs))
    parts = torch.arange(count).tensor_split(-(-count // size)) if count else ()
    corrupt = CorruptCount(count)
    waiting: dict[Hashable, list[Seen]] = defaultdict(list)
    for read in in_order(_Parts(pairs, [part.tolist() for part in parts]), workers):
        for item in read.corrupt:
            corrupt.add(item)
        if len({kind(pair) for pair in read.found}) == 1:
            yield stack(read.found)
            continue
        for pair in read.found:
            alike = waiting[kind(pair)]
            alike.append(pair)
            if len(alike) == 2 * size:  # so that no single pair is left at the end
                yield stack(alike[:size])
                del alike[:size]
    for alike in waiting.values():
        for numbers in torch.arange(len(alike)).tensor_split(-(-len(alike) // size)):
            yield stack([alike[i] for i in numbers.tolist()])


def describe(pairs: Scenes[Views]) -> str:
    """Return in words how scenes were selected; without a selection, how many there are.

    A source of other scenes than pairs states what they are in its attribute `noun`.
    """
    if isinstance(pairs, Subset) and pairs.words:
        return pairs.words
    return f"all {len(pairs)} {getattr(pairs, 'noun', 'pairs')}"


def share_views(pairs: Scenes[Views]) -> bool:
    """Return whether one view can be in several pairs; no two rooms share a view."""
    if isinstance(pairs, Subset | Resized):
        return share_views(pairs.pairs)
    return not isinstance(pairs, Independent)


@dataclass(frozen=True)
class Read(Generic[Seen]):
    """The result of reading several pairs.

    Attributes:
        found: The pairs that could be read, in batches of one; or one batch if not `Items`.
        corrupt: The errors of the others.
    """

    found: list[Seen]
    corrupt: list[CorruptError]


def read_each(pairs: Scenes[Seen], indices: Sequence[int]) -> Read[Seen]:
    """Read pairs one by one and collect errors of corrupt ones; read all at once if not `Items`."""
    if isinstance(pairs, Subset):
        return read_each(pairs.pairs, [pairs.indices[i] for i in indices])
    if isinstance(pairs, Resized):
        whole = read_each(pairs.pairs, indices)
        return Read([found.resized_for(pairs.framing) for found in whole.found], whole.corrupt)
    if not isinstance(pairs, Items):
        return Read([pairs.batch(indices)], [])
    read = Read[Seen]([], [])
    for index in indices:
        try:
            read.found.append(pairs[index])
        except CorruptError as item:
            read.corrupt.append(item)
    return read


class _Parts(Dataset[Read[Seen]], Generic[Seen]):
    """Lists of pairs, read in a worker process."""

    def __init__(self, pairs: Scenes[Seen], parts: Sequence[Sequence[int]]):
        self.pairs = pairs
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Read[Seen]:
        return read_each(self.pairs, self.parts[number])


def in_order(items: Dataset[T], workers: int) -> "DataLoader[T]":
    """Return a loader of single items, in order."""
    return DataLoader(items, batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(item: T) -> T:
    return item
