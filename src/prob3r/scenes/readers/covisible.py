"""Pairs by computed overlap, for data sets without a list of pairs.

Some evenly spaced frames of each scene are compared. A pair is kept if each frame sees at least a
tenth of the other's surface. This reads depth and cameras, and no images. The pairs are kept in the
user's cache, under a name that changes if those files change.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import CoarseView, seen_share
from prob3r.io.files import make_folder, user_cache, writing_to
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.frames import Frames

logger = logging.getLogger(__name__)

LEAST = 0.1
"""The share of each frame's surface that the other must see."""

_VERSION = 1  # version of this rule; a new version invalidates old caches


class Found(NamedTuple):
    """The result of a search for pairs.

    Attributes:
        pairs: Two frame numbers a row, the earlier first.
        frames: Number of frames that were read.
        corrupt: Errors of the frames that could not be used.
    """

    pairs: npt.NDArray[Any]
    frames: int
    corrupt: list[CorruptError]


def pairs_by_overlap(reader: Frames) -> Found:
    """Return the pairs of frames that see the same surfaces.

    Args:
        reader: The data set; its frames must be listed already.
    """
    scenes = frames_by_scene(reader.scenes)
    chosen = [_spread(frames, reader.frames_per_scene) for frames in scenes.values()]
    looked_at = [frame for frames in chosen for frame in frames]
    cache = _cache(reader, looked_at)
    with suppress(Exception), np.load(cache) as kept:  # a damaged cache is ignored
        corrupt = [CorruptError(*row) for row in kept["corrupt"].tolist()]
        return Found(kept["pairs"], len(looked_at), corrupt)
    logger.info("Looking for pairs that overlap in %d scenes of %s.", len(chosen), reader.root)
    pairs, corrupt = np.empty((0, 2), dtype=np.int32), []
    for frames in chosen:
        found, faults = _pairs_of_scene(reader, frames)
        pairs, corrupt = np.concatenate([pairs, found]), corrupt + faults
    with suppress(Prob3rError):  # without a cache, only the next run is slower
        make_folder(cache.parent)
        with writing_to(cache) as temporary:
            rows = np.array([(str(item), item.problem) for item in corrupt], dtype=np.str_)
            np.savez(temporary, pairs=pairs, corrupt=rows.reshape(-1, 2))
    return Found(pairs, len(looked_at), corrupt)


def neighbours(scenes: Sequence[str], count: int | None = None) -> npt.NDArray[Any]:
    """Return the pairs of successive frames of one scene.

    Args:
        scenes: Scene of each frame.
        count: Largest number of frames of each scene, evenly spaced; all by default.
    """
    taken = (
        _spread(frames, len(frames) if count is None else count)
        for frames in frames_by_scene(scenes).values()
    )
    pairs = [pair for frames in taken for pair in pairwise(frames)]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def pairs_by_points(
    scenes: Sequence[str], seen: Sequence[set[int]], count: int
) -> npt.NDArray[Any]:
    """Return the pairs of frames that see the same points of a reconstruction.

    Args:
        scenes: Scene of each frame.
        seen: The numbers of the points that each frame sees.
        count: Largest number of frames of each scene, evenly spaced.
    """
    pairs = [
        (first, second)
        for frames in frames_by_scene(scenes).values()
        for first, second in combinations(_spread(frames, count), 2)
        if len(seen[first] & seen[second])
        >= LEAST * max(len(seen[first]), len(seen[second]), 1 / LEAST)
    ]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def frames_by_scene(scenes: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the frames of each scene; scenes and frames keep their order."""
    found: dict[str, list[int]] = {}
    for frame, scene in enumerate(scenes):
        found.setdefault(scene, []).append(frame)
    return found


def _spread(frames: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the frames, evenly spaced."""
    if len(frames) <= count:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def _pairs_of_scene(
    reader: Frames, frames: Sequence[int]
) -> tuple[npt.NDArray[np.int32], list[CorruptError]]:
    seen: dict[int, CoarseView] = {}
    corrupt = []
    for frame in frames:
        try:
            seen[frame] = _coarse(reader, frame)
        except CorruptError as item:
            corrupt.append(item)
    if not seen:
        return np.empty((0, 2), dtype=np.int32), corrupt
    shares = torch.stack([_shares(frame, list(seen.values())) for frame in seen.values()])
    mutual = torch.minimum(shares, shares.T).triu(diagonal=1)
    rows = (mutual >= LEAST).nonzero().numpy()
    return np.array(list(seen), dtype=np.int32)[rows], corrupt


def _coarse(reader: Frames, frame: int) -> CoarseView:
    camera, depth = reader.checked_camera(frame), reader.depth(frame)[None]
    if not (depth > 0).any():
        raise CorruptError(f"{reader.names[frame]} has no pixel whose depth is known.", "bad depth")
    size = depth.shape[1], depth.shape[2]
    return CoarseView.of(depth, camera.intrinsics_at(size), camera.cam_to_world)


def _shares(viewer: CoarseView, frames: list[CoarseView]) -> Float[Tensor, " n"]:
    """Return the share of each frame's points that a view sees; frames may differ in size."""
    points = torch.cat([frame.points for frame in frames])
    known = torch.cat([frame.known for frame in frames])
    many = viewer.take(torch.zeros(len(frames), dtype=torch.int64))
    return seen_share(many, many._replace(points=points, known=known))


def _cache(reader: Frames, frames: Sequence[int]) -> Path:
    """Return the cache file for the pairs of these frames."""
    key = hashlib.sha256(f"{_VERSION} {reader.layout} {LEAST}".encode())
    for frame in frames:
        key.update(signature(reader, frame))
    return user_cache("pairs") / f"{key.hexdigest()}.npz"


def signature(reader: Frames, frame: int) -> bytes:
    """Return a signature that changes if a frame's depth file, camera or name changes."""
    parts, file = [b""], reader.depth_file(frame)
    with suppress(OSError, ValueError):  # ValueError if it is not a valid path
        status = file.stat()
        about = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
        parts.append(about.encode("utf-8", "surrogateescape"))
    with suppress(CorruptError):
        camera = reader.checked_camera(frame)
        parts += [camera.intrinsics.numpy().tobytes(), camera.cam_to_world.numpy().tobytes()]
    parts.append(f"{frame} {reader.names[frame]}\n".encode("utf-8", "surrogateescape"))
    return b"".join(parts)
