"""HPatches: dense matches of planar scenes seen from several places."""

from pathlib import Path

from prob3r.geometry import PixelMatches
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import HPatches
from prob3r.scenes.views import Views
from prob3r.studies.protocols.lists import refuse_list
from prob3r.studies.protocols.matching import SIDE, Matching
from prob3r.studies.protocols.protocol import ChosenScenes, Key


class HPatchesMatches(Matching):
    """Image 1 with each of the other five. Pixels of the other image are matched in image 1."""

    name = "hpatches-matches"
    title = "HPatches: dense matches of 59 sequences"
    layout = "hpatches-sequences-release"
    frames = (
        "images 1 and k, for k from 2 to 6, of the 59 sequences whose viewpoint changes: "
        "PruneTruong/DenseMatching's assets/hpatches_1_k.csv"
    )
    checked = (
        "PruneTruong/DenseMatching, b054fe9f: datasets/geometric_matching_datasets/hpatches.py and "
        "validation/flow_evaluation/metrics_flow.py"
    )
    pairs: HPatches

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return all pairs."""
        refuse_list(self.name, listed)
        self.pairs = HPatches(path, model)
        keys: list[Key] = [(folder.name, [1, other]) for folder, other in self.pairs.pairs]
        names = [[f"{folder.name}/1", f"{folder.name}/{k}"] for folder, k in self.pairs.pairs]
        return ChosenScenes(self.pairs, keys, names, f"all sequences v_* of {path}")

    def truth(self, number: int, scene: Views) -> tuple[PixelMatches, tuple[float, float]]:
        """Return the matches by the homography."""
        height, width = self.pairs.crops(number)[0].resized
        return self.pairs.matches(number), (SIDE / width, SIDE / height)
