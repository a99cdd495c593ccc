"""A COLMAP model, with or without depth maps.

    sparse/ or sparse/0/                        cameras, images, points3D; binary or text
    images/NAME
    stereo/depth_maps/NAME.geometric.bin        as COLMAP's dense reconstruction writes them, or
    stereo/depth_maps/NAME.photometric.bin
    depth/STEM.png                              16-bit thousandths of the model's unit, 0 if unknown

COLMAP's pixel centres are at halves, and its poses are world_to_cam. Without depth maps, as in the
scenes of Photo Tourism, two images are a pair if each sees at least a tenth of the 3D points that
the other sees.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.readers.base import Listing, Reader
from prob3r.scenes.readers.colmap_binary import check_lengths
from prob3r.scenes.readers.conventions import Camera, from_corner
from prob3r.scenes.readers.covisible import pairs_by_points
from prob3r.scenes.readers.files import optional, read_depth

MILLI = 1e-3


class COLMAP(Reader, layout="colmap"):
    """Pairs of frames of one model that overlap; a folder of models is read as several scenes.

    If no model has depth maps, views have cameras only.

    Raises:
        Prob3rError: pycolmap is not installed, a model cannot be read, or its images are distorted.
    """

    marker = "sparse"
    depth_range = (1e-6, 1e6)  # the unit of length is the model's own

    def listing(self, found: list[Path]) -> Listing:
        """Read the registered images of every model, in the order of their names."""
        self.folders: list[Path] = []
        self.files: list[str] = []
        self.cameras: list[Camera] = []
        seen: list[set[int]] = []
        for sparse in found:
            for name, (camera, points) in sorted(_images(sparse).items()):
                self.folders.append(sparse.parent)
                self.files.append(name)
                self.cameras.append(camera)
                seen.append(points)
        scenes = [folder.resolve().name for folder in self.folders]
        names = [f"{scene}/{file}" for scene, file in zip(scenes, self.files, strict=True)]
        self.has_depth = any(
            (sparse.parent / maps).is_dir() for sparse in found for maps in ("stereo", "depth")
        )
        pairs = None if self.has_depth else pairs_by_points(scenes, seen, self.frames_per_scene)
        return Listing(names, scenes, pairs)

    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""
        return self.folders[frame] / "images" / self.files[frame]

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame: the geometric one, or the first that exists."""
        folder, name = self.folders[frame], self.files[frame]
        maps = folder / "stereo" / "depth_maps"
        files = [maps / f"{name}.geometric.bin", maps / f"{name}.photometric.bin"]
        files.append((folder / "depth" / name).with_suffix(".png"))
        return next((file for file in files if file.is_file()), files[0])

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in the model's unit of length, 0 where unknown."""
        file = self.depth_file(frame)
        return read_depth(file, MILLI if file.suffix == ".png" else 1.0)

    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame."""
        return self.cameras[frame]


def _images(sparse: Path) -> dict[str, tuple[Camera, set[int]]]:
    """Read a model's cameras, and which 3D points each sees, by the names of the images."""
    pycolmap = optional("pycolmap", "colmap")
    folder = sparse / "0" if (sparse / "0").is_dir() else sparse
    try:
        check_lengths(folder, pycolmap)
        model = pycolmap.Reconstruction(str(folder))
    except (OSError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise Prob3rError(f"{folder} cannot be read as a COLMAP model ({reason}).") from error
    images = {}
    for image in model.images.values():
        if not image.has_pose:
            continue
        camera = model.cameras[image.camera_id]
        if not (camera.is_undistorted() and camera.is_perspective_pinhole()):
            raise Prob3rError(
                f"{folder}: the camera of {image.name} is {camera.model_name} with distortion; "
                "run `colmap image_undistorter` first, since prob3r's cameras are pinholes."
            )
        world_to_cam = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
        points = {point.point3D_id for point in image.points2D if point.has_point3D()}
        seen_by = Camera.of(
            from_corner(camera.calibration_matrix()),
            np.linalg.inv(world_to_cam),
            (camera.height, camera.width),
        )
        images[image.name] = seen_by, points
    return images
