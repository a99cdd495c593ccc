"""ETH3D: reconstruction from photographs of each training scene."""

from prob3r.scenes.readers import ETH3D
from prob3r.studies.protocols.clouds import Clouds


class ETH3DClouds(Clouds):
    """The high-resolution photographs of the thirteen training scenes, undistorted."""

    name = "eth3d-points"
    title = "ETH3D: reconstruction from every fifth photograph"
    layout = "eth3d: as pi3's datasets/preprocess/prepare_eth3d.sh leaves it"
    frames = (
        "every fifth photograph of the thirteen scenes, in the order of their names: pi3's "
        "datasets/seq-id-maps/ETH3D_mv-recon_seq-id-map-kf5.json"
    )
    published = "7eb63ed59fc9c0a8"
    reader = ETH3D
    stride = 5
