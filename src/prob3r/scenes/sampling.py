"""Select pairs: by a seeded sample, and by bounds of overlap and rotation.

The `words` of a `Subset` that is made here say how it was selected. Results repeat these words.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Dataset

from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.scenes.readers import CorruptCount, CorruptError, Reader
from prob3r.scenes.readers.items import Seen
from prob3r.scenes.readers.overlaps import Overlaps
from prob3r.scenes.source import Pairs, Scenes, Subset, batches, describe, in_order, share_views

Bounds = tuple[int | float, int | float]
"""The least and the greatest value, both included."""

ANY_OVERLAP: Bounds = (0, 1)
ANY_ROTATION: Bounds = (0, 180)

_CHUNK = 64  # pairs that are tested together
_SELECTABLE = 10_000_000  # largest number of pairs for `select`, which tests each of them


def sample(pairs: Scenes[Seen], count: int, seed: int = 0) -> Subset[Seen]:
    """Return `count` of the pairs, or all if there are fewer, drawn without replacement.

    The same seed draws the same pairs in the same order. Procedural rooms and other pairs that are
    `Independent` are random draws already, so their sample is the first `count` of them for any
    seed.
    """
    total, words, spread = len(pairs), describe(pairs), share_views(pairs)
    if count < total:
        how = f"drawn with seed {seed}" if spread else "the first, which are independent draws"
        words = f"{count} of {words.removeprefix('all ')}, {how}"
    count = min(count, total)
    numbers = random.Random(seed).sample(range(total), count) if spread else range(count)
    return Subset(pairs, numbers, words)


def sampled_batches(
    scenes: Scenes[Seen], count: int, size: int, device: torch.device | str
) -> Iterator[Seen]:
    """Yield a `sample` of `count` scenes, in batches of at most `size`, on a device."""
    for batch in batches(sample(scenes, count), count, size):
        yield batch.to(device)


def select(
    pairs: Pairs,
    overlap: Bounds = ANY_OVERLAP,
    rotation: Bounds = ANY_ROTATION,
    *,
    count: int | None = None,
    workers: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Subset:
    """Return the pairs whose overlap and rotation are within bounds, ends included.

    The pairs are tested in their order. For a large data set, take a `sample` first. For a data
    set on disk, only cameras are read, and depth at low resolution if the cameras do not decide.
    Overlaps are kept in the user's cache.

    Args:
        pairs: Pairs with true pointmaps.
        overlap: Bounds of the share of view 2's valid pixels that view 1 sees.
        rotation: Bounds of the angle between the two cameras, in degrees.
        count: Stop when this number of pairs is found; by default all pairs are tested.
        workers: Threads that read a data set on disk, or processes that read other pairs; with 0,
            this process reads.
        report: Called with the number of tested pairs and of all pairs; if `count` is given, with
            the number of found pairs and `count`.

    Raises:
        Prob3rError: There are too many pairs, more than 1 % of them are corrupt, or a pair has no
            ground truth.
    """
    total = len(pairs)
    if total > _SELECTABLE:
        raise Prob3rError(f"{total} pairs are too many to look at each; take a sample first.")
    corrupt, kept, looked = CorruptCount(total), list[int](), 0
    for fits in _fits(pairs, overlap, rotation, workers):
        if isinstance(fits, CorruptError):
            corrupt.add(fits)
        elif fits:
            kept.append(looked)
        looked += 1
        report(*((looked, total) if count is None else (len(kept), count)))
        if len(kept) == count:
            break
    bounds = [
        f"{name} {low:g} to {high:g}{unit}"
        for name, (low, high), usual, unit in (
            ("overlap", overlap, ANY_OVERLAP, ""),
            ("rotation", rotation, ANY_ROTATION, " degrees"),
        )
        if (low, high) != usual
    ]
    words = f"{len(kept)} pairs with {' and '.join(bounds)}" if bounds else f"{len(kept)} pairs"
    among = describe(pairs) if looked == total else f"the first {looked} of {describe(pairs)}"
    return Subset(pairs, kept, f"{words} among {among}")


def choose(
    pairs: Pairs,
    count: int,
    overlap: Bounds | None = None,
    rotation: Bounds | None = None,
    *,
    seed: int = 0,
    workers: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Subset:
    """Return a sample of the pairs, or of the pairs whose overlap and rotation are within bounds.

    Args:
        pairs: Pairs to choose from, with true pointmaps if there are bounds.
        count: Size of the sample; all pairs are returned if there are fewer.
        overlap: As for `select`; None for no bounds.
        rotation: As for `select`; None for no bounds.
        seed: Seed of the sample.
        workers: Threads that read a data set on disk.
        report: Called with the number of found pairs and `count`.

    Raises:
        Prob3rError: No pair is within the bounds, or as for `select`.
    """
    if overlap is None and rotation is None:
        return sample(pairs, count, seed)
    drawn = sample(pairs, min(len(pairs), _SELECTABLE), seed)
    order = f" in an order drawn with seed {seed}" if share_views(pairs) else ""
    drawn.words = describe(pairs) + order
    found = select(
        drawn,
        overlap or ANY_OVERLAP,
        rotation or ANY_ROTATION,
        count=count,
        workers=workers if isinstance(pairs, Reader) else 0,
        report=report,
    )
    if not len(found):
        raise Prob3rError(f"There are {found.words}; give wider bounds.")
    return found


def _fits(
    pairs: Pairs, overlap: Bounds, rotation: Bounds, workers: int
) -> Iterator[bool | CorruptError]:
    """Yield whether each pair is within the bounds, or an error if it is corrupt."""
    whole: Pairs = pairs
    numbers: Sequence[int] = range(len(pairs))
    while isinstance(whole, Subset):
        indices, whole = whole.indices, whole.pairs
        numbers = [indices[i] for i in numbers]
    if isinstance(whole, Reader):
        return _fits_by_frames(whole, numbers, overlap, rotation, workers)
    return iter(in_order(_Looks(pairs, overlap, rotation), workers))


def _fits_by_frames(
    reader: Reader, numbers: Sequence[int], overlap: Bounds, rotation: Bounds, workers: int
) -> Iterator[bool | CorruptError]:
    """Yield the same for a data set on disk, from cameras and depth, without reading images."""
    overlaps = Overlaps(reader, workers)
    try:
        for first in range(0, len(numbers), _CHUNK):
            yield from _chunk(reader, numbers[first : first + _CHUNK], overlaps, overlap, rotation)
    finally:
        overlaps.save()


def _chunk(
    reader: Reader, numbers: Sequence[int], overlaps: Overlaps, overlap: Bounds, rotation: Bounds
) -> list[bool | CorruptError]:
    turned: list[bool | CorruptError] = []
    for number in numbers:
        try:
            turned.append(_inside(reader.rotation(number), rotation))
        except CorruptError as item:
            turned.append(item)
    if overlap == ANY_OVERLAP:
        return turned
    left = [place for place, fits in enumerate(turned) if fits is True]
    shares = overlaps.of([reader.frames_of(numbers[place]) for place in left])
    for place, share in zip(left, shares, strict=True):
        turned[place] = share if isinstance(share, CorruptError) else _inside(share, overlap)
    return turned


class _Looks(Dataset[bool | CorruptError]):
    """Whether each pair is within the bounds, computed in a worker process."""

    def __init__(self, pairs: Pairs, overlap: Bounds, rotation: Bounds):
        self.pairs = pairs
        self.overlap = overlap
        self.rotation = rotation

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> bool | CorruptError:
        try:
            pair = self.pairs.batch([index])
        except CorruptError as item:
            return item
        turned = float(rotation_angle(pair.view2_to_view1[:, :3, :3]))
        return _inside(turned, self.rotation) and _inside(float(pair.overlap()), self.overlap)


def _inside(value: float, bounds: Bounds) -> bool:
    return bounds[0] <= value <= bounds[1]
