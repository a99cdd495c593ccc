"""ETH3D: dense matches of photographs that overlap."""

from pathlib import Path

from prob3r.geometry import PixelMatches, pixel_matches
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import ETH3D
from prob3r.scenes.readers.files import image_size
from prob3r.scenes.readers.sets import FrameSets
from prob3r.scenes.sampling import sample
from prob3r.scenes.views import Pair, Views
from prob3r.studies.protocols.lists import refuse_list
from prob3r.studies.protocols.matching import SIDE, Matching
from prob3r.studies.protocols.protocol import ChosenScenes

PAIRS, SEED = 500, 0


class ETH3DMatches(Matching):
    """Matches are computed from depth and cameras. Pixels that view 1 does not see do not count.

    The pairs are prob3r's own. GLU-Net's protocol of the same name takes frames of ETH3D's videos
    at intervals, and sparse points. Its numbers cannot be compared with those of this protocol.
    """

    name = "eth3d-matches"
    title = "ETH3D: dense matches of photographs that overlap"
    layout = "eth3d: as pi3's datasets/preprocess/prepare_eth3d.sh leaves it"
    frames = (
        f"{PAIRS} pairs of photographs of which each sees a tenth of the other's surface, drawn "
        f"with seed {SEED}: prob3r's own"
    )
    checked = (
        "PruneTruong/DenseMatching, b054fe9f: validation/flow_evaluation/metrics_flow.py; the "
        "truth is prob3r's own"
    )
    reader: ETH3D

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return a sample of the pairs that overlap."""
        refuse_list(self.name, listed)
        self.reader = ETH3D(path, model)
        drawn = sample(self.reader, PAIRS, SEED)
        self.pairs = [self.reader.frames_of(index) for index in drawn.indices]
        return ChosenScenes.of(FrameSets(self.reader, self.pairs), drawn.words)

    def truth(self, number: int, scene: Views) -> tuple[PixelMatches, tuple[float, float]]:
        """Return the matches by depth and cameras."""
        assert isinstance(scene, Pair)
        first, _ = self.pairs[number]
        size = image_size(self.reader.image(first))
        intrinsics = self.reader.checked_camera(first).intrinsics_at(size)
        height, width = self.reader.framing.crop_of(size, intrinsics).resized
        return pixel_matches(scene.match_truth), (SIDE / width, SIDE / height)
