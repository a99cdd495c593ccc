"""Protocols of trajectories: ATE and RPE of the cameras of a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from prob3r.geometry import trajectory_errors
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import Reader
from prob3r.scenes.views import Views
from prob3r.studies.protocols.lists import Places, refuse_list, sets_by_places
from prob3r.studies.protocols.protocol import ChosenScenes, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction


class Trajectories(Protocol):
    """Cameras of the frames of each recording, in their order.

    ATE is the root mean square distance of the positions after the similarity that fits them best.
    RPE is the root mean square of the difference of the motions from frame to frame. Each is
    averaged over recordings.
    """

    alignment = "similarity of least squares over the cameras' positions (Umeyama)"
    checked = "MichaelGrupp/evo, 26d0953d, as pi3's relpose/evo_utils.py calls it"
    metrics: ClassVar[Sequence[Metric]] = [
        Metric("ATE", "smaller", "m"),
        Metric("RPE translation", "smaller", "m"),
        Metric("RPE rotation", "smaller", "°"),
    ]

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the recordings' frames."""
        refuse_list(self.name, listed)
        reader = self.reader(path, model)
        return ChosenScenes.of(
            sets_by_places(reader, self.places(reader)), f"all recordings of {path}"
        )

    def reader(self, path: Path, model: FramesImages | Framing) -> Reader:
        """Return the data set."""
        raise NotImplementedError

    def places(self, reader: Reader) -> Places:
        """Return the places of the frames."""
        raise NotImplementedError

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one recording."""
        errors = trajectory_errors(found.poses.double(), scene.cam_to_world.double())
        names = (metric.name for metric in self.metrics)
        return dict(zip(names, (float(error) for error in errors), strict=True))
