"""A nerfstudio capture: `transforms.json` with depth.

    transforms.json     fl_x, fl_y, cx, cy, w, h and frames, each with file_path, depth_file_path,
                        transform_matrix (cam_to_world, OpenGL axes) and perhaps its own intrinsics

Depth files are 16-bit PNG or `.npy`, in millimetres unless `depth_unit_scale_factor` says how many
scene units a step is. Pixel centres are at halves, as in nerfstudio's rays.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.conventions import Camera, from_corner, from_opengl, pinhole
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import read_depth, read_json

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


class Nerfstudio(Reader, layout="nerfstudio"):
    """Pairs of frames of one capture that overlap; a folder of captures is read as several scenes.

    Raises:
        Prob3rError: The images are distorted, or frames have no depth.
    """

    marker = "transforms.json"
    depth_range = (1e-2, 1e3)

    def listing(self, found: list[Path]) -> Listing:
        """Read the frames of every capture, in the order of their files' names."""
        self.frames: list[dict[str, Any]] = []
        self.folders: list[Path] = []
        for file in found:
            shared = read_json(file)
            frames = shared.pop("frames", None)
            if not isinstance(frames, list) or not all("file_path" in frame for frame in frames):
                raise Prob3rError(f'{file} must hold "frames", a list, each with a file_path.')
            for frame in sorted(frames, key=lambda frame: str(frame["file_path"])):
                self.frames.append(self._known(file, shared | frame))
                self.folders.append(file.parent)
        scenes = [folder.resolve().name for folder in self.folders]
        names = [
            f"{scene}/{frame['file_path']}"
            for scene, frame in zip(scenes, self.frames, strict=True)
        ]
        return Listing(names, scenes)

    def _known(self, file: Path, frame: dict[str, Any]) -> dict[str, Any]:
        """Return a frame that can be read as a pinhole camera with depth."""
        where = f"{file}, {frame['file_path']}"
        distorted = [key for key in _DISTORTION if frame.get(key)]
        if distorted or "FISHEYE" in str(frame.get("camera_model")):
            raise Prob3rError(
                f"{where} has lens distortion ({', '.join(distorted) or frame['camera_model']}); "
                "undistort the images and depth first, since prob3r's cameras are pinholes."
            )
        if "depth_file_path" not in frame:
            raise Prob3rError(f"{where} has no depth_file_path; prob3r needs depth for its truth.")
        return frame

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.folders[frame] / str(self.frames[frame]["file_path"])

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""
        return self.folders[frame] / str(self.frames[frame]["depth_file_path"])

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in the scene's unit of length, 0 where unknown."""
        unit = self.frames[frame].get("depth_unit_scale_factor", 1e-3)
        return read_depth(self.depth_file(frame), float(unit))

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        known = self.frames[frame]
        try:
            k = pinhole(*(float(known[key]) for key in ("fl_x", "fl_y", "cx", "cy")))
            pose = np.array(known["transform_matrix"], dtype=np.float64).reshape(4, 4)
            size = (int(known["h"]), int(known["w"])) if "h" in known and "w" in known else None
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptError(
                f"{self.names[frame]} has no camera that can be read ({error}).", "bad camera"
            ) from error
        return Camera.of(from_corner(k), from_opengl(pose), size)
