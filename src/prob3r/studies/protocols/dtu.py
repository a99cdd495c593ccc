"""DTU: reconstruction from views of each test scan."""

from collections.abc import Sequence
from typing import ClassVar

from prob3r.scenes.readers import DTU
from prob3r.studies.protocols.clouds import Clouds

TEST = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
"""MVSNet's test scans."""


class DTUClouds(Clouds):
    """Objects on a table. Depth is known only on the objects' masks."""

    name = "dtu-points"
    title = "DTU: reconstruction from every fifth view"
    layout = "dtu: a folder of scans, as Spann3R's preparation leaves it"
    frames = (
        "every fifth view of MVSNet's 22 test scans: pi3's "
        "datasets/seq-id-maps/DTU_mv-recon_seq-id-map-kf5.json"
    )
    published = "0bce21d9e3940118"
    reader = DTU
    stride = 5
    radius = 100.0
    unit = "mm"
    scenes: ClassVar[Sequence[str] | None] = [f"scan{number}" for number in TEST]
