"""Protocols of camera poses of many views: RRA, RTA and AUC over all pairs of ten frames."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from prob3r.geometry import auc_binned, relative_pose_errors, share_below
from prob3r.scenes.views import Views
from prob3r.studies.protocols.protocol import Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction

DEGREES = (5, 15, 30)
VIEWS = 10
SEED = 42


class RelativePoses(Protocol):
    """Poses of ten frames of each sequence, pair by pair.

    RRA@k is the share of all pairs of frames whose relative rotation is wrong by less than k
    degrees. RTA@k is the same for the direction of the relative translation. AUC@k is the area
    under the recall curve of the larger of both errors, in steps of one degree. If a camera is not
    found, all pairs with it count as failures.
    """

    alignment = (
        "none: relative poses, translations by their direction, an opposite one counts as right"
    )
    checked = (
        "yyfz/Pi3, branch evaluation, 97ce97b8: relpose/metric.py, which is VGGT's evaluation too"
    )
    metrics: ClassVar[Sequence[Metric]] = [
        Metric(f"{name}@{degrees}", "larger")
        for name in ("RRA", "RTA", "AUC")
        for degrees in DEGREES
    ]

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the shares and the areas of one scene."""
        errors = relative_pose_errors(
            found.poses.double(), scene.cam_to_world.double(), folded=True
        )
        worst = torch.maximum(errors.rotation, errors.translation)
        values = {}
        for degrees in DEGREES:
            values[f"RRA@{degrees}"] = float(share_below(errors.rotation, degrees))
            values[f"RTA@{degrees}"] = float(share_below(errors.translation, degrees))
            values[f"AUC@{degrees}"] = float(auc_binned(worst, degrees))
        return values
