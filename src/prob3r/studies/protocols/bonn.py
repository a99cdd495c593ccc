"""Bonn RGB-D: depth of recordings with moving people."""

from pathlib import Path

from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers.videos import Film, Videos
from prob3r.studies.protocols.depth import Depths, films_chosen
from prob3r.studies.protocols.lists import refuse_list
from prob3r.studies.protocols.protocol import ChosenScenes

SEQUENCES = ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")
FIRST, END = 30, 140


class BonnDepth(Depths):
    """Images and depth are paired by their order, not by their times, as MonST3R does."""

    name = "bonn-depth"
    title = "Bonn RGB-D: depth of five recordings"
    layout = "the folder rgbd_bonn_dataset, with rgbd_bonn_SEQUENCE/rgb and /depth"
    frames = (
        "frames 30 to 139 of five recordings, in the order of the files' names, as MonST3R's "
        "datasets_preprocess/prepare_bonn.py takes them"
    )
    farthest = 70.0

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the five recordings."""
        refuse_list(self.name, listed)
        films = [
            Film.between(name, path / name / "rgb", path / name / "depth", FIRST, END)
            for name in (f"rgbd_bonn_{sequence}" for sequence in SEQUENCES)
        ]
        return films_chosen(Videos(films, 1 / 5000, model), f"five recordings of {path}")
