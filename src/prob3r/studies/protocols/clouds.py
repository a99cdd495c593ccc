"""Protocols of reconstruction: accuracy, completeness and normal consistency of points."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from prob3r.geometry import align, cloud_errors, register, transform
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import Reader
from prob3r.scenes.view import View
from prob3r.scenes.views import Views
from prob3r.studies.protocols.lists import Places, every, read_places, sets_by_places
from prob3r.studies.protocols.protocol import ChosenScenes, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction

ROOM = 0.1  # metres, the radius of ICP


class Clouds(Protocol):
    """The points of all views of a scene, compared with the true points.

    Only pixels with a known true depth count. The points are aligned once by the similarity of
    least squares over all of them (Umeyama), then by ICP, point to point. Distances are to the
    nearest point of the other cloud. Normals are computed from the 30 nearest points. Points are
    compared at the resolution and in the crop in which the model sees the views.

    Attributes:
        reader: The reader of the data set.
        stride: The step between the frames that are taken of a scene.
        radius: The radius of ICP, in the unit of the truth.
        unit: The unit of the truth.
        scenes: The scenes of the published list. The default is all scenes of the data set.
    """

    alignment = "similarity of least squares over all points (Umeyama), then ICP, point to point"
    checked = (
        "yyfz/Pi3, branch evaluation, 97ce97b8: mv_recon/utils.py, with Open3D 0.20.0's "
        "registration_icp and estimate_normals"
    )
    reader: ClassVar[type[Reader]]
    stride: ClassVar[int]
    radius: ClassVar[int | float] = ROOM
    unit: ClassVar[str] = "m"
    scenes: ClassVar[Sequence[str] | None] = None

    def __init_subclass__(cls) -> None:
        """Name the metrics in the unit of the data set."""
        super().__init_subclass__()
        cls.metrics = [
            *(
                Metric(name, "smaller", cls.unit)
                for name in (
                    "accuracy",
                    "accuracy (median)",
                    "completeness",
                    "completeness (median)",
                )
            ),
            Metric("normal consistency", "larger"),
            Metric("normal consistency (median)", "larger"),
        ]

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the listed frames, or every `stride`-th frame of each scene."""
        reader = self.reader(path, model, seek=False)
        if listed is not None:
            return ChosenScenes.of(
                sets_by_places(reader, read_places(listed)), f"read from {listed}"
            )
        return ChosenScenes.of(
            sets_by_places(reader, self.places(path, reader)), f"every {self.stride} frames"
        )

    def places(self, path: Path, reader: Reader) -> Places:
        """Return the places of the frames when no list is given."""
        return every(reader, self.stride, self.scenes)

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one scene's cloud."""
        counted = [self._counted(view) for view in scene.views]
        predicted, true = (
            torch.cat([points[mask] for points, mask in zip(of, counted, strict=True)]).double()
            for of in (found.points, scene.points)
        )
        predicted = align(predicted[None], true[None]).apply(predicted[None])
        motion = register(predicted[0], true, self.radius)
        errors = cloud_errors(transform(predicted, motion[None])[0], true)
        return dict(zip((metric.name for metric in self.metrics), errors, strict=True))

    def _counted(self, view: View) -> Bool[Tensor, "1 h w"]:
        """Return which pixels of a view count."""
        assert view.depth is not None  # readers of these data sets give depth
        if self.farthest is None:
            return view.known
        return view.known & (view.depth <= self.farthest)
