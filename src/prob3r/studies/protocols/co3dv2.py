"""CO3Dv2: camera poses of ten frames of each test sequence."""

from pathlib import Path

from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import CO3Dv2
from prob3r.scenes.readers.covisible import frames_by_scene
from prob3r.studies.protocols.lists import drawn, read_places, sets_by_places
from prob3r.studies.protocols.protocol import ChosenScenes
from prob3r.studies.protocols.relative_poses import SEED, VIEWS, RelativePoses

UNSEEN = [
    "ball",
    "book",
    "couch",
    "frisbee",
    "hotdog",
    "kite",
    "remote",
    "sandwich",
    "skateboard",
    "suitcase",
]
"""The categories that PoseDiffusion did not train on. Their frames are drawn last."""

FEWEST = 50  # frames of a sequence
FARTHEST = 1e5  # a sequence is left out if the entries of a translation sum to more than this


class CO3Dv2Poses(RelativePoses):
    """All categories; sequences of 50 frames or more whose translations are plausible."""

    name = "co3dv2-poses"
    title = "CO3Dv2: relative camera poses of ten frames"
    layout = "co3dv2: *_test.jgz of VGGT's evaluation, and the images"
    frames = (
        "ten frames of every test sequence, drawn with numpy's RandomState(42): pi3's "
        "datasets/seq-id-maps/CO3Dv2_relpose_seq-id-map_seed42.json, 2506 sequences"
    )
    published = "e21d86ca57d1e316"

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the listed frames, or draw them."""
        reader = CO3Dv2(path, model, seek=False)
        if listed is not None:
            return ChosenScenes.of(
                sets_by_places(reader, read_places(listed)), f"read from {listed}"
            )
        frames = frames_by_scene(reader.scenes)
        usable = [scene for scene in frames if _usable(reader, frames[scene])]
        order = sorted(usable, key=lambda scene: reader.categories[frames[scene][0]] in UNSEEN)
        places = drawn(reader, VIEWS, SEED, order)
        return ChosenScenes.of(sets_by_places(reader, places), f"drawn with seed {SEED}")


def _usable(reader: CO3Dv2, frames: list[int]) -> bool:
    shifts = [sum(map(float, reader.entries[frame]["T"])) for frame in frames]
    return len(frames) >= FEWEST and max(shifts) <= FARTHEST
