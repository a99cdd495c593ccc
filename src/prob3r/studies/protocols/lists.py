"""Lists of frames: read from published files, or rebuilt by a stride or a seed.

The files are those of pi3's branch `evaluation`, `datasets/seq-id-maps/*.json`: an object that
gives each sequence the places of its frames in the recording, counted from 0.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prob3r.errors import Prob3rError
from prob3r.scenes.readers import Reader
from prob3r.scenes.readers.covisible import frames_by_scene
from prob3r.scenes.readers.files import read_json
from prob3r.scenes.readers.sets import FrameSets

Places = dict[str, list[int]]
"""The places of frames in their scene, counted from 0."""


def sets_by_places(reader: Reader, places: Places) -> FrameSets:
    """Return one set of frames for each scene.

    Args:
        reader: The data set.
        places: The places of the frames of each scene, in the order in which a model sees them.

    Raises:
        Prob3rError: The data set lacks a scene or a frame, or a set has fewer than two frames.
    """
    frames, sets = frames_by_scene(reader.scenes), []
    for scene, numbers in places.items():
        have = frames.get(scene, [])
        if not numbers or max(numbers) >= len(have) or min(numbers) < 0:
            raise Prob3rError(
                f"{reader.root} has {len(have)} frames of {scene}, but the list asks for frame "
                f"{max(numbers, default=0)}, counted from 0; give the whole data set, or a list of "
                "the frames that are there."
            )
        if len(numbers) < 2:
            raise Prob3rError(f"{scene} has only one listed frame; list at least two.")
        sets.append(tuple(have[number] for number in numbers))
    if not sets:
        raise Prob3rError(f"{reader.root} has no scene of this protocol.")
    return FrameSets(reader, sets)


def read_places(file: Path) -> Places:
    """Read a published list.

    Raises:
        Prob3rError: The file is not a JSON object of lists of whole numbers.
    """
    content = read_json(file)
    for scene, numbers in content.items():
        if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
            raise Prob3rError(
                f"{file}: {scene} must have a list of whole numbers, the places of its frames."
            )
    return content


def every(reader: Reader, stride: int, scenes: Sequence[str] | None = None) -> Places:
    """Return the first of every `stride` frames of each scene, or of some scenes."""
    frames = frames_by_scene(reader.scenes)
    wanted = frames if scenes is None else scenes
    return {scene: list(range(0, len(frames.get(scene, [])), stride)) for scene in wanted}


def drawn(reader: Reader, views: int, seed: int, scenes: Sequence[str] | None = None) -> Places:
    """Return frames drawn by numpy's `RandomState(seed).choice`, scene after scene.

    The draws are those of pi3's and VGGT's evaluations, if the scenes, their order and their
    numbers of frames are the same. Scenes with fewer than `views` frames are left out, and nothing
    is drawn for them.

    Args:
        reader: The data set.
        views: Number of frames of each scene.
        seed: Seed of the draws.
        scenes: The scenes in the order of the draws; by default all, in the order of their names.
    """
    frames, draw = frames_by_scene(reader.scenes), np.random.RandomState(seed)
    return {
        scene: draw.choice(len(frames[scene]), views, replace=False).tolist()
        for scene in (sorted(frames) if scenes is None else scenes)
        if len(frames[scene]) >= views
    }


def refuse_list(name: str, listed: Path | None) -> None:
    """Raise Prob3rError if a list of frames is given to a protocol that takes none."""
    if listed is not None:
        raise Prob3rError(f"{name} takes no list of frames, but got {listed}; leave --frames out.")
