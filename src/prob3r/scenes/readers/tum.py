"""TUM RGB-D: a moving Kinect, with the poses of a motion-capture system.

    rgb.txt, depth.txt          timestamp, file
    groundtruth.txt             timestamp, tx ty tz, qx qy qz qw: cam_to_world, OpenCV axes, metres
    rgb/….png
    depth/….png                 16 bits, 5000 a metre, 0 where unknown, registered to the colours

The three streams are not synchronous: each image takes the nearest depth and pose within 20 ms.
Intrinsics are those that the authors publish for each of the Kinects. Lens distortion is not
corrected; it is some pixels in the corners of Freiburg 1 and 2.
"""

from pathlib import Path

import numpy as np
import torch

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, pinhole, rigid
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import Array, read_table

APART = 0.02  # seconds; largest difference of times that belong together

# fx, fy, cx, cy of the colour cameras, at 640x480 pixels.
KINECTS = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
ANY_KINECT = (525.0, 525.0, 319.5, 239.5)
SIZE = (480, 640)


class TUM(Reader, layout="tum"):
    """Pairs of frames of one recording that overlap; several recordings are several scenes."""

    marker = "groundtruth.txt"
    depth_unit = 1 / 5000
    depth_range = (0.3, 65535 / 5000)

    def listing(self, found: list[Path]) -> Listing:
        """Read all recordings, and match each image with a depth and a pose by time."""
        self.images: list[Path] = []
        self.depths: list[Path] = []
        self.poses: list[Array] = []
        names, scenes = [], []
        for file in found:
            folder = file.parent
            streams = [_stream(folder / f"{name}.txt") for name in ("rgb", "depth", "groundtruth")]
            (times, images), (depth_times, depths), (pose_times, poses) = streams
            if not (len(times) and len(depth_times) and len(pose_times)):
                raise Prob3rError(f"{folder} has no images, no depth or no poses in its lists.")
            depth, near = _nearest(times, depth_times)
            pose, also_near = _nearest(times, pose_times)
            # If depth is not used, images without depth near in time are kept as well.
            for i in np.flatnonzero(near & also_near if self.has_depth else also_near):
                self.images.append(folder / images[i][0])
                self.depths.append(folder / depths[depth[i]][0])
                self.poses.append(np.array(poses[pose[i]], dtype=np.float64))
                scenes.append(folder.resolve().name)
                names.append(f"{scenes[-1]}/{images[i][0]}")
        return Listing(names, scenes)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.images[frame]

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.depths[frame]

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        pose = self.poses[frame]
        if len(pose) != 7:
            raise CorruptError(f"{self.names[frame]} has a pose of other than 7 numbers.")
        known = next((k for name, k in KINECTS.items() if name in self.scenes[frame]), ANY_KINECT)
        return Camera.of(pinhole(*known), rigid(_rotation(pose[3:]), pose[:3]), SIZE)


def _stream(file: Path) -> tuple[Array, list[list[str]]]:
    """Return the times of a list, and the other words of each line."""
    lines = read_table(file)
    try:
        times = np.array([float(line[0]) for line in lines])
        if short := [line for line in lines if len(line) < 2]:
            raise ValueError(f"a line has only '{short[0][0]}'")
        return times, [line[1:] for line in lines]
    except ValueError as error:
        raise Prob3rError(
            f"{file} must have a time and a file or a pose in every line ({error})."
        ) from error


def _nearest(times: Array, others: Array) -> tuple[Array, Array]:
    """Return the index of the nearest other time for each time, and whether it is near enough."""
    order = others.argsort()
    right = others[order].searchsorted(times).clip(1, max(1, len(others) - 1))
    sides = order[np.stack([right - 1, right]).clip(max=len(others) - 1)]
    apart = np.abs(others[sides] - times)
    return np.take_along_axis(sides, apart.argmin(0)[None], 0)[0], apart.min(0) <= APART


def _rotation(xyzw: Array) -> Array:
    """Return the rotation of a quaternion, real part last; not finite if its norm is 0."""
    import roma  # only this reader and poses from matches need it

    unit = torch.from_numpy(xyzw) / torch.from_numpy(xyzw).norm()
    matrix: Array = roma.unitquat_to_rotmat(unit).numpy()
    return matrix
