"""KITTI: depth of drives."""

from pathlib import Path

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers.videos import Film, Videos
from prob3r.studies.protocols.depth import Depths, films_chosen
from prob3r.studies.protocols.lists import refuse_list
from prob3r.studies.protocols.protocol import ChosenScenes


class KITTIDepth(Depths):
    """Depth is measured by a laser scanner, at few pixels."""

    name = "kitti-depth"
    title = "KITTI: depth of drives"
    layout = "val_selection_cropped, with image_gathered/ and groundtruth_depth_gathered/"
    frames = (
        "the first 110 frames of each drive of the validation selection, as MonST3R's "
        "datasets_preprocess/prepare_kitti.py gathers them"
    )

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return all drives that were gathered."""
        refuse_list(self.name, listed)
        folders = sorted(f for f in (path / "image_gathered").glob("*") if f.is_dir())
        if not folders:
            raise Prob3rError(f"{path} has no image_gathered/DRIVE; give {self.layout}.")
        measured = path / "groundtruth_depth_gathered"
        films = [Film.between(f.name, f, measured / f.name) for f in folders]
        return films_chosen(Videos(films, 1 / 256, model), f"{len(films)} drives of {path}")
