"""7-Scenes: reconstruction from sparse or dense frames of each test sequence."""

from pathlib import Path
from typing import ClassVar

from prob3r.errors import Prob3rError
from prob3r.scenes.readers import Reader, SevenScenes
from prob3r.studies.protocols.clouds import Clouds
from prob3r.studies.protocols.lists import Places, every


class _SevenScenes(Clouds):
    """Test sequences as each scene's TestSplit.txt lists them."""

    layout = (
        "7scenes: a folder of scenes, with depth moved into the colour camera "
        "(.depth.proj.png) as SimpleRecon's and Spann3R's preparations leave it"
    )
    reader = SevenScenes
    farthest: ClassVar[int | float | None] = 10.0

    def places(self, path: Path, reader: Reader) -> Places:
        """Return the places of every `stride`-th frame of each test sequence."""
        found = [
            f"{folder.parent.name}/{folder.name}"
            for split in sorted(path.resolve().glob("*/TestSplit.txt"))
            for folder in SevenScenes.found(split)
        ]
        if not found:
            raise Prob3rError(
                f"{path} has no SCENE/TestSplit.txt; give the folder of the scenes, or a list of "
                "frames."
            )
        return every(reader, self.stride, found)


class SevenScenesSparse(_SevenScenes):
    """CUT3R's setting."""

    name = "7scenes-sparse"
    title = "7-Scenes: reconstruction from frames 200 apart"
    frames = (
        "every 200th frame of the 18 test sequences: pi3's "
        "datasets/seq-id-maps/7scenes_mv-recon_seq-id-map-kf200.json"
    )
    published = "066b2df3eaebba27"
    stride = 200


class SevenScenesDense(_SevenScenes):
    """The setting of pi3."""

    name = "7scenes-dense"
    title = "7-Scenes: reconstruction from frames 40 apart"
    frames = (
        "every 40th frame of the 18 test sequences: pi3's "
        "datasets/seq-id-maps/7scenes_mv-recon_seq-id-map-kf40.json"
    )
    published = "5f867f4788e9820c"
    stride = 40
