"""RealEstate10K: camera poses of ten frames of each test recording."""

from pathlib import Path

from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import RealEstate10K
from prob3r.studies.protocols.lists import drawn, read_places, sets_by_places
from prob3r.studies.protocols.protocol import ChosenScenes
from prob3r.studies.protocols.relative_poses import SEED, VIEWS, RelativePoses


class RealEstate10KPoses(RelativePoses):
    """All recordings in the folder, in the order of their names."""

    name = "re10k-poses"
    title = "RealEstate10K: relative camera poses of ten frames"
    layout = "re10k: as pi3's datasets/preprocess/prepare_re10k.sh leaves it"
    frames = (
        "ten frames of every recording of the test split that can still be had, drawn with numpy's "
        "RandomState(42): pi3's datasets/seq-id-maps/Re10K_relpose_seq-id-map_seed42.json, 1719 "
        "recordings"
    )
    published = "01df05cf5c3ccb5e"

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the listed frames, or draw them."""
        reader = RealEstate10K(path, model, seek=False)
        if listed is not None:
            return ChosenScenes.of(
                sets_by_places(reader, read_places(listed)), f"read from {listed}"
            )
        places = drawn(reader, VIEWS, SEED)
        return ChosenScenes.of(sets_by_places(reader, places), f"drawn with seed {SEED}")
