"""Protocol: a public benchmark by name, with its frames, its alignment and its metrics.

A protocol is a class with a `name` in any file of this folder; it is found without a list. Its
method `choose` returns the frames, and `measure` the numbers of one scene. `run` does the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from prob3r.io.files import digest_of
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers.sets import FrameSets
from prob3r.scenes.source import Scenes, Subset
from prob3r.scenes.views import Views
from prob3r.studies.protocols.reconstruct import Reconstruction

Key = tuple[str, list[int]] | list[str]
"""A scene and the places of its frames in it, counted from 0; or the frames' names."""


@dataclass(frozen=True)
class Metric:
    """A number that a protocol reports over all scenes.

    Attributes:
        name: The name of the metric.
        better: Whether larger or smaller values are better.
        unit: The unit; empty for shares, which go from 0 to 1.
        column: Name of the number of one scene from which it is computed; `name` by default.
        weight: Name of the number of one scene that is its weight in the mean over scenes; by
            default all weights are equal.
        area: If set, the metric is the exact area under the recall curve up to this value instead
            of a mean.
    """

    name: str
    better: Literal["larger", "smaller"]
    unit: str = ""
    column: str = ""
    weight: str = ""
    area: int | float | None = None

    @property
    def of(self) -> str:
        """Name of the number of one scene from which the metric is computed."""
        return self.column or self.name


@dataclass(frozen=True)
class ChosenScenes:
    """The scenes that a protocol measures.

    Attributes:
        scenes: The scenes, read by number.
        keys: Keys of the frames of each scene, which do not depend on the folder.
        names: Names of the frames of each scene, in the order in which the model sees them.
        words: How the frames were chosen.
    """

    scenes: Scenes[Views]
    keys: Sequence[Key]
    names: Sequence[Sequence[str]]
    words: str

    @classmethod
    def of(cls, sets: FrameSets, words: str) -> "ChosenScenes":
        """Return the sets of a reader's frames."""
        reader, seen = sets.reader, dict[str, int]()
        place = []
        for scene in reader.scenes:
            place.append(seen.setdefault(scene, 0))
            seen[scene] += 1
        keys: list[Key] = [
            (reader.scenes[frames[0]], [place[frame] for frame in frames]) for frames in sets.sets
        ]
        names = [[reader.names[frame] for frame in frames] for frames in sets.sets]
        return cls(sets, keys, names, words)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify these frames, for any order of the scenes."""
        return digest_of(sorted(self.keys, key=str))

    def take(self, numbers: Sequence[int], words: str) -> "ChosenScenes":
        """Return some of the scenes."""
        return replace(
            self,
            scenes=Subset(self.scenes, numbers),
            keys=[self.keys[i] for i in numbers],
            names=[self.names[i] for i in numbers],
            words=words,
        )


class Protocol(ABC):
    """A public benchmark; every class with a `name` is registered.

    Attributes:
        registry: All protocol classes by name.
        name: The name of the protocol.
        title: The data set, and what is measured.
        layout: The data that is needed, and its layout.
        frames: The frames, and the source of their list.
        alignment: How predictions are aligned with the frame and unit of the truth.
        checked: The public code with which the metrics were compared.
        metrics: The reported metrics.
        published: The digest of the published list, if it is known.
        farthest: Points beyond this depth, in the unit of the truth, do not count.
    """

    registry: ClassVar[dict[str, type["Protocol"]]] = {}

    name: ClassVar[str]
    title: ClassVar[str]
    layout: ClassVar[str]
    frames: ClassVar[str]
    alignment: ClassVar[str]
    checked: ClassVar[str]
    metrics: ClassVar[Sequence[Metric]]
    published: ClassVar[str | None] = None
    farthest: ClassVar[int | float | None] = None

    def __init_subclass__(cls) -> None:
        """Register the protocol by its name."""
        if "name" in vars(cls):
            Protocol.registry[cls.name] = cls

    @abstractmethod
    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the scenes of the protocol.

        Args:
            path: The data set's folder.
            model: The model that frames the images, or a `Framing`.
            listed: A file with the published list. Without it the list is rebuilt.

        Raises:
            Prob3rError: The data set or the list cannot be used.
        """

    @abstractmethod
    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the numbers of one scene by their names.

        Args:
            number: The number of the scene among the chosen ones.
            scene: The views with the truth.
            found: The model's reconstruction of the scene.
        """

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return what makes two results of this protocol comparable, for result files."""
        return {
            "name": cls.name,
            "frames": cls.frames,
            "alignment": cls.alignment,
            "metrics": [metric.name for metric in cls.metrics],
            "farthest": cls.farthest,
        }
