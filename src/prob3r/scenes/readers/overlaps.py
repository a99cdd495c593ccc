"""Overlaps of pairs of frames, from depth and cameras at low resolution.

Images are not read. Frames are read in parallel, and each frame is read once for many pairs. The
overlaps are kept in the user's cache until a depth file or a camera changes.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import CoarseView, seen_share
from prob3r.io.files import make_folder, user_cache, writing_to
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.covisible import signature
from prob3r.scenes.readers.frames import Frames

FramePair = tuple[int, int]

_VERSION = 1  # version of this rule; a new version invalidates old caches
_KEY = 16  # bytes of the key of a pair
_MOST_FRAMES = 2048  # largest number of frames in memory, about 65 kB each


class Overlaps:
    """The overlaps of pairs of frames: the share of framed view 2 that framed view 1 sees.

    Args:
        frames: The data set.
        workers: Threads that read frames; with 0, this thread reads.
    """

    def __init__(self, frames: Frames, workers: int = 0):
        self.frames, self.workers = frames, workers
        self._read: OrderedDict[int, CoarseView | CorruptError] = OrderedDict()
        self._signatures: dict[int, bytes] = {}
        self._kept = self._load()
        self._new = False

    def of(self, pairs: Sequence[FramePair]) -> list[float | CorruptError]:
        """Return the overlap of each pair, or the error of a frame that cannot be used."""
        keys = {pair: self._key(pair) for pair in pairs}
        wanted = [pair for pair, key in keys.items() if key not in self._kept]
        self._read_frames(dict.fromkeys(frame for pair in wanted for frame in pair))
        faults: dict[FramePair, CorruptError] = {}
        views: dict[int, CoarseView] = {}
        alike: dict[object, list[FramePair]] = defaultdict(list)
        for pair in wanted:
            for frame in pair:
                found = self._read[frame]
                if isinstance(found, CorruptError):
                    faults.setdefault(pair, found)
                else:
                    views[frame] = found
            if pair not in faults:
                shapes = views[pair[0]].depth.shape, views[pair[1]].points.shape
                alike[shapes].append(pair)
        for group in alike.values():
            viewers, shown = (
                CoarseView(*map(torch.cat, zip(*(views[frame] for frame in column), strict=True)))
                for column in zip(*group, strict=True)
            )
            for pair, share in zip(group, seen_share(viewers, shown).tolist(), strict=True):
                self._kept[keys[pair]] = share
                self._new = True
        while len(self._read) > _MOST_FRAMES:
            self._read.popitem(last=False)
        return [faults[pair] if pair in faults else self._kept[keys[pair]] for pair in pairs]

    def save(self) -> None:
        """Write the overlaps to the user's cache, if it can be written."""
        if not self._new:
            return
        with suppress(Prob3rError):
            file = self._file()
            make_folder(file.parent)
            with writing_to(file) as temporary:
                keys = np.frombuffer(b"".join(self._kept), dtype=np.uint8).reshape(-1, _KEY)
                np.savez(temporary, keys=keys, shares=np.array([*self._kept.values()], np.float32))
        self._new = False

    def _read_frames(self, frames: Iterable[int]) -> None:
        """Read the frames that are not in memory, and mark them as the most recently used."""
        frames = list(frames)
        new = [frame for frame in frames if frame not in self._read]
        if self.workers and len(new) > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                found = list(pool.map(partial(_coarse, self.frames), new))
        else:
            found = [_coarse(self.frames, frame) for frame in new]
        self._read.update(zip(new, found, strict=True))
        for frame in frames:
            self._read.move_to_end(frame)

    def _key(self, pair: FramePair) -> bytes:
        key = hashlib.sha256()
        for frame in pair:
            if frame not in self._signatures:
                self._signatures[frame] = signature(self.frames, frame)
            key.update(self._signatures[frame])
        return key.digest()[:_KEY]

    def _file(self) -> Path:
        about = (
            f"{_VERSION} {self.frames.layout} {self.frames.root.resolve()} {self.frames.framing}"
        )
        digest = hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest()
        return user_cache("overlaps") / f"{digest}.npz"

    def _load(self) -> dict[bytes, float]:
        with suppress(Exception), np.load(self._file()) as kept:  # a damaged cache is ignored
            keys = [key.tobytes() for key in kept["keys"].reshape(-1, _KEY)]
            return dict(zip(keys, kept["shares"].tolist(), strict=True))
        return {}


def _coarse(frames: Frames, frame: int) -> CoarseView | CorruptError:
    try:
        return frames.coarse(frame)
    except CorruptError as item:
        return item
