"""Sintel: trajectories, and depth of the same sequences."""

from pathlib import Path

from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import Reader, Sintel
from prob3r.studies.protocols.depth import Depths
from prob3r.studies.protocols.lists import Places, every, refuse_list, sets_by_places
from prob3r.studies.protocols.protocol import ChosenScenes
from prob3r.studies.protocols.trajectories import Trajectories

SEQUENCES = [
    "alley_2",
    "ambush_4",
    "ambush_5",
    "ambush_6",
    "cave_2",
    "cave_4",
    "market_2",
    "market_5",
    "market_6",
    "shaman_3",
    "sleeping_1",
    "sleeping_2",
    "temple_2",
    "temple_3",
]
"""The sequences whose camera moves, as ParticleSfM and MonST3R chose them."""

LAYOUT = "sintel: the folder `training`, with final/, depth/ and camdata_left/"
FRAMES = "all frames of 14 sequences, the final pass: pi3's configs/data/{}.yaml"


class SintelTrajectories(Trajectories):
    """The cameras of a film."""

    name = "sintel-trajectories"
    title = "Sintel: trajectories of 14 sequences"
    layout = LAYOUT
    frames = FRAMES.format("relpose-distance")

    def reader(self, path: Path, model: FramesImages | Framing) -> Reader:
        """Return the film's sequences."""
        return Sintel(path, model, seek=False)

    def places(self, reader: Reader) -> Places:
        """Return all frames of the 14 sequences."""
        return every(reader, 1, SEQUENCES)


class SintelDepth(Depths):
    """The depth of a film. Pixels with a true depth beyond 70 units do not count."""

    name = "sintel-depth"
    title = "Sintel: depth of 14 sequences"
    layout = LAYOUT
    frames = FRAMES.format("depth")
    farthest = 70.0
    clipped = 70.0

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return all frames of the 14 sequences."""
        refuse_list(self.name, listed)
        reader = Sintel(path, model, seek=False)
        places = every(reader, 1, SEQUENCES)
        return ChosenScenes.of(sets_by_places(reader, places), f"all sequences of {path}")
