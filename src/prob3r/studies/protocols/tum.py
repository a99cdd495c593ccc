"""TUM RGB-D: trajectories of the recordings with moving people."""

from pathlib import Path

from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import TUM, Reader
from prob3r.scenes.readers.covisible import frames_by_scene
from prob3r.studies.protocols.lists import Places
from prob3r.studies.protocols.trajectories import Trajectories

STRIDE, MOST = 3, 90


class _Colours(TUM):
    """Colour images with poses. Depth is not needed, and is not read."""

    has_depth = False


class TUMTrajectories(Trajectories):
    """The recordings that are in the folder."""

    name = "tum-trajectories"
    title = "TUM RGB-D: trajectories of 90 frames"
    layout = "tum: a folder of recordings; MonST3R's are the eight freiburg3_sitting and _walking"
    frames = (
        "of each recording, of the colour images with a pose within 20 ms every third, the first "
        "90, as MonST3R's datasets_preprocess/prepare_tum.py takes them"
    )

    def reader(self, path: Path, model: FramesImages | Framing) -> Reader:
        """Return the recordings."""
        return _Colours(path, model, seek=False)

    def places(self, reader: Reader) -> Places:
        """Return the places of every third frame, up to 90."""
        return {
            scene: list(range(0, len(frames), STRIDE))[:MOST]
            for scene, frames in frames_by_scene(reader.scenes).items()
        }
