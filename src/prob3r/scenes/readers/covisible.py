"""Pairs by computed overlap, for data sets that list none.

Of each scene some evenly spaced frames are taken, and those pairs of them are kept in which each
frame sees at least a tenth of what the other does. This reads depth and cameras, not images; what
it finds is kept in the user's cache, under a name that changes whenever those files do.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import MatchTruth, invert_rigid, overlap, transform, unproject
from prob3r.io.files import make_folder, written
from prob3r.scenes.readers.corrupt import CorruptError

if TYPE_CHECKING:
    from prob3r.scenes.readers.base import Reader

logger = logging.getLogger(__name__)

LEAST = 0.1
"""The share of each frame's surface that the other must see."""

_LONGEST = 96  # pixels along a coarse depth map, in which points are looked up
_GRID = (24, 32)  # points looked up, along the height and the width
_VERSION = 1  # of the rule; a new one makes old caches void


class Found(NamedTuple):
    """What a search for pairs ended with.

    Attributes:
        pairs: Two frame numbers a row, the earlier first.
        frames: How many frames were looked at.
        corrupt: What is wrong with those of them that are in no pair for it.
    """

    pairs: npt.NDArray[Any]
    frames: int
    corrupt: list[CorruptError]


class _Coarse(NamedTuple):
    """A frame at the few pixels that overlap is computed from."""

    depth: Float[Tensor, "1 h w"]
    intrinsics: Float[Tensor, "1 3 3"]
    world_to_cam: Float[Tensor, "1 4 4"]
    points: Float[Tensor, "1 rows columns 3"]
    known: Bool[Tensor, "1 rows columns"]


def pairs_by_overlap(reader: "Reader") -> Found:
    """Return the pairs of frames that see the same surfaces.

    Args:
        reader: The data set, whose frames are listed already.
    """
    scenes: dict[str, list[int]] = {}
    for frame, scene in enumerate(reader.scenes):
        scenes.setdefault(scene, []).append(frame)
    chosen = [_spread(frames, reader.frames_per_scene) for frames in scenes.values()]
    looked_at = [frame for frames in chosen for frame in frames]
    cache = _cache(reader, looked_at)
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(cache) as kept:
        corrupt = [CorruptError(*row) for row in kept["corrupt"].tolist()]
        return Found(kept["pairs"], len(looked_at), corrupt)
    logger.info("Looking for pairs that overlap in %d scenes of %s.", len(chosen), reader.root)
    pairs, corrupt = np.empty((0, 2), dtype=np.int32), []
    for frames in chosen:
        found, faults = _pairs_of_scene(reader, frames)
        pairs, corrupt = np.concatenate([pairs, found]), corrupt + faults
    with suppress(Prob3rError):  # without a cache it is only slower
        make_folder(cache.parent)
        with written(cache) as temporary:
            rows = np.array([(str(item), item.problem) for item in corrupt], dtype=np.str_)
            np.savez(temporary, pairs=pairs, corrupt=rows.reshape(-1, 2))
    return Found(pairs, len(looked_at), corrupt)


def neighbours(scenes: Sequence[str]) -> npt.NDArray[Any]:
    """Return the pairs of successive frames of one scene."""
    after = range(1, len(scenes))
    pairs = [(i - 1, i) for i in after if scenes[i - 1] == scenes[i]]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _spread(frames: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the frames, evenly spaced."""
    if len(frames) <= count:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _pairs_of_scene(
    reader: "Reader", frames: Sequence[int]
) -> tuple[npt.NDArray[np.int32], list[CorruptError]]:
    seen: dict[int, _Coarse] = {}
    corrupt = []
    for frame in frames:
        try:
            seen[frame] = _coarse(reader, frame)
        except CorruptError as item:
            corrupt.append(item)
    if not seen:
        return np.empty((0, 2), dtype=np.int32), corrupt
    points = torch.cat([frame.points for frame in seen.values()])
    known = torch.cat([frame.known for frame in seen.values()])
    shares = torch.stack([_shares(frame, points, known) for frame in seen.values()])
    mutual = torch.minimum(shares, shares.T).triu(diagonal=1)
    rows = (mutual >= LEAST).nonzero().numpy()
    return np.array(list(seen), dtype=np.int32)[rows], corrupt


def _coarse(reader: "Reader", frame: int) -> _Coarse:
    camera, depth = reader.checked_camera(frame), reader.depth(frame)[None]
    height, width = depth.shape[1:]
    known = depth > 0
    if not known.any():
        raise CorruptError(f"{reader.names[frame]} has no pixel whose depth is known.", "bad depth")
    intrinsics = camera.intrinsics_at((height, width))
    rows, columns = (
        torch.linspace(0, side - 1, steps).round().long()
        for side, steps in zip((height, width), _GRID, strict=True)
    )
    world = transform(unproject(depth, intrinsics), camera.cam_to_world)
    stride = -(-max(height, width) // _LONGEST)
    # Pixel x of the coarse map is pixel x * stride of the whole one, exactly.
    scale = torch.tensor([1 / stride, 1 / stride, 1])[:, None]
    return _Coarse(
        depth=depth[:, ::stride, ::stride],
        intrinsics=intrinsics * scale,
        world_to_cam=invert_rigid(camera.cam_to_world),
        points=world[:, rows[:, None], columns],
        known=known[:, rows[:, None], columns],
    )


def _shares(
    view: _Coarse,
    points: Float[Tensor, "n rows columns 3"],
    known: Bool[Tensor, "n rows columns"],
) -> Float[Tensor, " n"]:
    """Return the share of each frame's points, in the world's frame, that a view sees."""
    count = len(points)
    depth = view.depth.expand(count, -1, -1)
    local = transform(points, view.world_to_cam.expand(count, 4, 4))
    intrinsics = view.intrinsics.expand(count, 3, 3)
    return overlap(MatchTruth(local, known, depth, depth > 0, intrinsics))


def _cache(reader: "Reader", frames: Sequence[int]) -> Path:
    """Return where the pairs of these frames are kept."""
    key = hashlib.sha256(f"{_VERSION} {reader.layout} {LEAST}".encode())
    for frame in frames:
        file = reader.depth_file(frame)
        with suppress(OSError):
            status = file.stat()
            key.update(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
        with suppress(CorruptError):
            camera = reader.camera(frame)
            key.update(camera.intrinsics.numpy().tobytes() + camera.cam_to_world.numpy().tobytes())
        key.update(f"{frame} {reader.names[frame]}\n".encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "prob3r" / "pairs" / f"{key.hexdigest()}.npz"
