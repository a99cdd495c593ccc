"""Neural RGB-D: reconstruction from sparse or dense frames of each scene."""

from typing import ClassVar

from prob3r.scenes.readers import NRGBD
from prob3r.studies.protocols.clouds import Clouds


class _NRGBD(Clouds):
    layout = "nrgbd: a folder of scenes, as Spann3R's preparation leaves it"
    reader = NRGBD
    farthest: ClassVar[int | float | None] = 10.0


class NRGBDSparse(_NRGBD):
    """CUT3R's setting."""

    name = "nrgbd-sparse"
    title = "Neural RGB-D: reconstruction from frames 500 apart"
    frames = (
        "every 500th frame of the nine scenes: pi3's "
        "datasets/seq-id-maps/NRGBD_mv-recon_seq-id-map-kf500.json"
    )
    published = "79b122460e8feb7c"
    stride = 500


class NRGBDDense(_NRGBD):
    """The setting of pi3."""

    name = "nrgbd-dense"
    title = "Neural RGB-D: reconstruction from frames 100 apart"
    frames = (
        "every 100th frame of the nine scenes: pi3's "
        "datasets/seq-id-maps/NRGBD_mv-recon_seq-id-map-kf100.json"
    )
    published = "26efa0b430e0253e"
    stride = 100
