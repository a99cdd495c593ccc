"""Protocols of the relative pose of two views: the exact AUC of image matching."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from prob3r.geometry import relative_pose_errors
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import Reader
from prob3r.scenes.readers.sets import FrameSets
from prob3r.scenes.views import Views
from prob3r.studies.protocols.lists import refuse_list
from prob3r.studies.protocols.protocol import ChosenScenes, Key, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction


class TwoViews(Protocol):
    """The relative pose of listed pairs.

    The error of a pair is the larger of the rotation's angle and the angle between the directions
    of the translations. AUC@k is the exact area under its recall curve, with straight lines between
    the errors. A pair without a pose counts as a failure.

    Attributes:
        reader: The reader of the list.
        count: The number of pairs in the published list.
    """

    alignment = (
        "none: relative poses, translations by their direction, an opposite one counts as right; "
        "intrinsics are not given to the model"
    )
    checked = "cvg/glue-factory, 2d17e3b3: gluefactory/utils/tools.py, cal_error_auc"
    metrics: ClassVar[Sequence[Metric]] = [
        *(Metric(f"AUC@{k}", "larger", column="pose error", area=k) for k in (5, 10, 20)),
    ]
    reader: ClassVar[type[Reader]]
    count: ClassVar[int]

    def choose(
        self, path: Path, model: FramesImages | Framing, listed: Path | None
    ) -> ChosenScenes:
        """Return the pairs of the list in the data set's folder."""
        refuse_list(self.name, listed)
        reader = self.reader(path, model)
        pairs = FrameSets(reader, [tuple(pair) for pair in reader.pairs.tolist()])
        names = [[reader.names[frame] for frame in pair] for pair in pairs.sets]
        words = f"{len(pairs)} of {self.count} pairs, as listed in {path}"
        return ChosenScenes(pairs, [self.key(pair) for pair in names], names, words)

    def key(self, names: Sequence[str]) -> Key:
        """Return what identifies a pair in the digest: by default the names of its frames."""
        return list(names)

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one pair, in degrees."""
        errors = relative_pose_errors(
            found.poses.double(), scene.cam_to_world.double(), folded=True
        )
        rotation, translation = errors.rotation[0, 0], errors.translation[0, 0]
        return {
            "rotation error": float(rotation),
            "translation error": float(translation),
            "pose error": float(torch.maximum(rotation, translation)),
        }
