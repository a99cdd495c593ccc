"""Habitat after DUSt3R's preprocessing: five rendered views a scene, scenes listed.

Habitat_COUNT_scenes_SPLIT.txt      a scene a line, such as hm3d/…/00000012
SCENE_1.jpeg … SCENE_5.jpeg
SCENE_1_depth.exr                   metres, half precision, 0 where unknown
SCENE_1_camera_params.json          camera_intrinsics, R_cam2world, t_cam2world
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, rigid
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import optional, read_json, read_table

VIEWS = 5  # of each scene; the first overlaps with all others by construction


class _Frames(Sequence[str]):
    """The names of all frames or of their scenes, made on demand: there may be millions."""

    def __init__(self, scenes: Sequence[str], numbered: bool):
        self.scenes = scenes
        self.numbered = numbered

    def __len__(self) -> int:
        return VIEWS * len(self.scenes)

    def __getitem__(self, index: Any) -> Any:
        frame = range(len(self))[index]
        scene = self.scenes[frame // VIEWS]
        return f"{scene}_{frame % VIEWS + 1}" if self.numbered else scene


class Habitat(Reader, layout="habitat"):
    """The pairs of a scene's first view with each other one, for the scenes of the lists."""

    marker = "Habitat_*_scenes_*.txt"
    depth_range = (1e-2, 200.0)

    def listing(self, found: list[Path]) -> Listing:
        """Read the scenes of all lists. Lists overlap; each scene is read once."""
        optional("OpenEXR", "exr")
        scenes = list(dict.fromkeys(" ".join(line) for file in found for line in read_table(file)))
        first = np.repeat(np.arange(len(scenes)) * VIEWS, VIEWS - 1)
        other = first + np.tile(np.arange(1, VIEWS), len(scenes))
        return Listing(
            names=_Frames(scenes, numbered=True),
            scenes=_Frames(scenes, numbered=False),
            pairs=np.stack([first, other], axis=1),
        )

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.root / f"{self.names[frame]}.jpeg"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.root / f"{self.names[frame]}_depth.exr"

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self.root / f"{self.names[frame]}_camera_params.json"
        known = read_json(file)
        try:
            keys = "camera_intrinsics", "R_cam2world", "t_cam2world"
            k, rotation, place = (np.array(known[key], dtype=np.float64) for key in keys)
            return Camera.of(k.reshape(3, 3), rigid(rotation, place))
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(f"{file} holds no camera ({error}).", "bad camera") from error
