"""BlendedMVS after DUSt3R's preprocessing: rendered depth, pairs listed.

blendedmvs_pairs.npy        two halves of the scene's number, two images, score
SCENE/00000000.jpg          SCENE is 24 hexadecimal digits
SCENE/00000000.exr          depth in the scene's own unit, 0 where unknown
SCENE/00000000.npz          intrinsics, R_cam2world, t_cam2world
"""

from pathlib import Path

import numpy as np

from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, rigid
from prob3r.scenes.readers.files import optional, read_arrays, reading

_PLACES = 10**8  # image numbers have 8 digits


class BlendedMVS(Reader, layout="blendedmvs"):
    """The pairs that `blendedmvs_pairs.npy` lists."""

    marker = "blendedmvs_pairs.npy"

    def listing(self, found: list[Path]) -> Listing:
        """Read the frames that pairs are made of."""
        optional("OpenEXR", "exr")
        with reading(found[0]):
            listed = np.load(found[0])
            high, low, first, second = (listed[name] for name in listed.dtype.names[:4])
        # A million pairs share a hundred thousand frames, which are told apart as integers.
        highs, which_high = np.unique(high, return_inverse=True)
        lows, which_low = np.unique(low, return_inverse=True)
        scene = (which_high * len(lows) + which_low).reshape(-1, 1)
        frames = scene * _PLACES + np.stack([first, second], axis=1).astype(np.int64)
        used, pairs = np.unique(frames, return_inverse=True)
        scenes = [
            f"{int(highs[number // len(lows)]):08x}{int(lows[number % len(lows)]):016x}"
            for number in (used // _PLACES).tolist()
        ]
        return Listing(
            [f"{s}/{frame % _PLACES:08d}" for s, frame in zip(scenes, used.tolist(), strict=True)],
            scenes,
            pairs.reshape(-1, 2),
        )

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.root / f"{self.names[frame]}.jpg"

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.root / f"{self.names[frame]}.exr"

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        file = self.root / f"{self.names[frame]}.npz"
        intrinsics, rotation, translation = read_arrays(
            file, "intrinsics", "R_cam2world", "t_cam2world"
        )
        return Camera.of(intrinsics, rigid(rotation, translation))
