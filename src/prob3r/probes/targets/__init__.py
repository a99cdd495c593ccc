"""Targets: what probes can predict.

To add one, write a `Target` and add it to `TARGETS`.
"""

from collections.abc import Mapping

from prob3r.errors import Prob3rError
from prob3r.probes.targets.dense import Depth, Normal
from prob3r.probes.targets.instance import Instance
from prob3r.probes.targets.matching import CoVisibility, Match
from prob3r.probes.targets.pointmap import Pointmap
from prob3r.probes.targets.relative import DecodedPose, Epipolar, RelativePose
from prob3r.probes.targets.target import (
    OWN,
    PAIR,
    PATCH,
    PIXEL,
    TRUTH,
    WHOSE,
    WHOSE_WORDS,
    Columns,
    Goals,
    Level,
    Target,
    Whose,
)

POINTMAP = Pointmap()
POSE = RelativePose()

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        POINTMAP,
        Depth(),
        Normal(),
        CoVisibility(),
        Match(),
        Instance(),
        POSE,
        Epipolar(),
    )
}
"""Every target by its name."""


def target_named(name: str) -> Target:
    """Return a target by its name.

    Raises:
        Prob3rError: There is none of this name.
    """
    if name not in TARGETS:
        raise Prob3rError(f"There is no target '{name}'; give {', '.join(TARGETS)}.")
    return TARGETS[name]


__all__ = [
    "OWN",
    "PAIR",
    "PATCH",
    "PIXEL",
    "POINTMAP",
    "POSE",
    "TARGETS",
    "TRUTH",
    "WHOSE",
    "WHOSE_WORDS",
    "CoVisibility",
    "Columns",
    "DecodedPose",
    "Depth",
    "Epipolar",
    "Goals",
    "Instance",
    "Level",
    "Match",
    "Normal",
    "Pointmap",
    "RelativePose",
    "Target",
    "Whose",
    "target_named",
]
