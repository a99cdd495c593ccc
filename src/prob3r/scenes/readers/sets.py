"""Scenes of several views from a data set's frames: by covisibility, by a stride, or by names."""

import random
from collections.abc import Iterable, Sequence

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Reader
from prob3r.scenes.readers.covisible import frames_by_scene
from prob3r.scenes.readers.items import Items
from prob3r.scenes.views import Views, views_of

FrameSet = tuple[int, ...]
"""The numbers of some frames of one scene, the reference first."""


class FrameSets(Items[Views]):
    """Scenes of several views, as sets of frames of a data set.

    Args:
        reader: The data set.
        sets: The frames of each scene by their numbers, the reference first.
    """

    noun = "sets of frames"

    def __init__(self, reader: Reader, sets: Sequence[FrameSet]):
        self.reader = reader
        self.sets = sets

    def __len__(self) -> int:
        return len(self.sets)

    def read(self, index: int) -> Views:
        """Read the views of one set, as a batch of one named after its frames."""
        frames = self.sets[index]
        names = (", ".join(self.reader.names[frame] for frame in frames),)
        views = views_of([self.reader.view(frame) for frame in frames], names)
        return views.named(scenes=(self.reader.scenes[frames[0]],))


class _Grown(Sequence[FrameSet]):
    """One set for each pair of a data set: the pair, and frames that overlap with the set.

    Pairs whose scene has too few overlapping frames are left out. A set depends only on the seed
    and on the number of the pair.
    """

    def __init__(self, pairs: Sequence[Sequence[int]], views: int, seed: int):
        self.pairs, self.views, self.seed = pairs, views, seed
        self.overlapping: dict[int, set[int]] = {}
        for first, second in pairs:
            self.overlapping.setdefault(first, set()).add(second)
            self.overlapping.setdefault(second, set()).add(first)
        sizes = _connected(self.overlapping)
        self.rows = [row for row, (first, _) in enumerate(pairs) if sizes[first] >= views]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> FrameSet:  # type: ignore[override]
        row = self.rows[index]
        draw = random.Random(f"{self.seed} {row}")
        chosen = list(self.pairs[row])
        while len(chosen) < self.views:
            near = set[int]().union(*(self.overlapping[frame] for frame in chosen))
            chosen.append(draw.choice(sorted(near.difference(chosen))))
        return tuple(chosen)


def sets_by_covisibility(reader: Reader, views: int, seed: int = 0) -> FrameSets:
    """Return sets in which every added view overlaps with an earlier view.

    There is one set for each pair of the data set. It starts with the two views. Further frames are
    drawn from the frames that form a pair with a frame of the set.

    Args:
        reader: The data set.
        views: Views of each set.
        seed: Seed of the draws.

    Raises:
        Prob3rError: There is no such set, or `views` is less than two.
    """
    _check(views)
    return _some(reader, _Grown(reader.pairs.tolist(), views, seed), f"{views} frames that overlap")


def sets_by_stride(reader: Reader, views: int, stride: int = 1) -> FrameSets:
    """Return sets of frames that are evenly spaced in a recording, one for each first frame.

    Args:
        reader: The data set.
        views: Views of each set.
        stride: Frames from each view to the next one.

    Raises:
        Prob3rError: No scene is long enough, `views` is less than two, `stride` is less than one,
            or the data set has no poses in a common frame.
    """
    _check(views)
    if stride < 1:
        raise Prob3rError(f"stride is {stride}; it must be 1 or more.")
    if reader.pairwise:
        raise Prob3rError(
            f"{reader.root} has poses within its listed pairs alone; it has no scenes to take "
            f"{views} views from by a stride."
        )
    scenes = frames_by_scene(reader.scenes)
    span = (views - 1) * stride
    sets = [
        tuple(frames[start : start + span + 1 : stride])
        for frames in scenes.values()
        for start in range(len(frames) - span)
    ]
    return _some(reader, sets, f"{views} frames {stride} apart")


def sets_by_names(reader: Reader, lists: Iterable[Sequence[str]]) -> FrameSets:
    """Return sets by the names of their frames.

    Args:
        reader: The data set.
        lists: The names of each set's frames, as in `reader.names`, the reference first.

    Raises:
        Prob3rError: A frame is not in the data set, or the frames of a set are of several scenes or
            fewer than two.
    """
    numbers = {name: frame for frame, name in enumerate(reader.names)}
    sets = []
    for names in lists:
        _check(len(names))
        unknown = [name for name in names if name not in numbers]
        if unknown:
            raise Prob3rError(
                f"{reader.root} has no frame {unknown[0]!r}; its frames are called like "
                f"{reader.names[0]!r}."
            )
        frames = tuple(numbers[name] for name in names)
        if len({reader.scenes[frame] for frame in frames}) > 1:
            raise Prob3rError(f"{', '.join(names)} are of several scenes; give frames of one.")
        sets.append(frames)
    return _some(reader, sets, "frames that are listed")


def _connected(overlapping: dict[int, set[int]]) -> dict[int, int]:
    """Return the number of frames in each frame's connected component of overlaps."""
    sizes: dict[int, int] = {}
    for start in overlapping:
        if start in sizes:
            continue
        reached, left = {start}, [start]
        while left:
            new = overlapping[left.pop()] - reached
            reached |= new
            left += new
        sizes.update(dict.fromkeys(reached, len(reached)))
    return sizes


def _check(views: int) -> None:
    if views < 2:
        raise Prob3rError(f"A scene of {views} views was asked for; it needs two or more.")


def _some(reader: Reader, sets: Sequence[FrameSet], what: str) -> FrameSets:
    if not sets:
        raise Prob3rError(f"{reader.root} has no scene with {what}.")
    return FrameSets(reader, sets)
