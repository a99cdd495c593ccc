"""Frames: the images of a data set, each with its depth and its camera."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import CoarseView
from prob3r.scenes.framing import Crop, Framing
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import image_size, read_depth, reading, reason_of
from prob3r.scenes.view import View

COARSE_GRID = (48, 64)
"""Points along the height and the width that the overlap of two frames is computed from."""


class Frames(ABC):
    """The frames of a data set, which are read one by one.

    Attributes:
        root: The data set's folder.
        framing: How the images are resized and cropped.
        names: Names of the frames, each unique.
        scenes: Scene of each frame.
        has_depth: Whether the data set has depth. If not, views have cameras only.
    """

    layout: ClassVar[str]
    depth_unit: ClassVar[float] = 1.0
    """The scene's unit of length for each step of a depth file."""
    depth_range: ClassVar[tuple[float, float]] = (1e-3, 1e3)
    """The nearest and farthest depth that make sense."""
    frames_per_scene: ClassVar[int] = 100
    """Of how many frames, evenly spaced, pairs are sought if the data set does not list them."""

    has_depth: bool = True
    root: Path
    framing: Framing
    names: Sequence[str]
    scenes: Sequence[str]

    @abstractmethod
    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""

    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame; raise Prob3rError if the data set has no depth."""
        raise self._no_depth()

    @abstractmethod
    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame; raise CorruptError if it cannot be read."""

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in the scene's unit of length, 0 where unknown.

        Raises:
            CorruptError: It cannot be read.
        """
        return read_depth(self.depth_file(frame), self.depth_unit)

    def checked_camera(self, frame: int) -> Camera:
        """Return the camera of a frame; raise CorruptError if it is not valid."""
        try:
            camera = self.camera(frame)
            camera.check(self.names[frame])
        except Prob3rError:
            raise
        except Exception as error:  # a damaged number fails in many ways
            raise CorruptError(
                f"The camera of {self.names[frame]} cannot be read ({reason_of(error)}).",
                "bad camera",
            ) from error
        return camera

    def view(self, frame: int) -> View:
        """Return a frame framed for the model, with its intrinsics and depth framed likewise.

        Raises:
            CorruptError: The frame cannot be used.
        """
        intrinsics, cam_to_world, depth = self._truth(frame)
        path = self.image(frame)
        with reading(path):
            view = View.from_image(
                path, self.framing, intrinsics=intrinsics, cam_to_world=cam_to_world, depth=depth
            )
        if depth is not None and not view.known.any():
            raise self._without_depth(frame)
        return view

    def coarse(self, frame: int) -> CoarseView:
        """Return a frame at low resolution, with the framing of `view`, without its colours.

        Raises:
            CorruptError: The frame cannot be used.
            Prob3rError: The data set has no depth.
        """
        intrinsics, cam_to_world, depth = self._truth(frame)
        if depth is None:
            raise self._no_depth()
        crop = self.framing.crop_of((depth.shape[0], depth.shape[1]), intrinsics)
        framed = crop.nearest(depth)
        if not (framed > 0).any():
            raise self._without_depth(frame)
        return CoarseView.of(framed, crop.intrinsics(intrinsics), cam_to_world, COARSE_GRID)

    def _truth(
        self, frame: int
    ) -> tuple[Float[Tensor, "1 3 3"], Float[Tensor, "1 4 4"], Float[Tensor, "h w"] | None]:
        """Return a frame's intrinsics, pose and depth, all for the size of its image."""
        name, camera = self.names[frame], self.checked_camera(frame)
        depth = self.depth(frame) if self.has_depth else None
        size = image_size(self.image(frame))
        stated = {"camera": camera.size or size}
        if depth is not None:
            stated["depth"] = depth.shape[0], depth.shape[1]
        for what, other in sorted(stated.items(), reverse=True):
            if abs(other[0] * size[1] / size[0] - other[1]) > 1:
                raise CorruptError(
                    f"{name}: the image is {size[1]}x{size[0]} pixels but its {what} is for "
                    f"{other[1]}x{other[0]}; they must be of one shape.",
                    "bad depth" if what == "depth" else "bad camera",
                )
        if depth is not None and depth.shape != size:  # depth sensors often have fewer pixels
            depth = Crop((depth.shape[0], depth.shape[1]), size, 0, 0, size).nearest(depth)[0]
        return camera.intrinsics_at(size), camera.cam_to_world, depth

    def _without_depth(self, frame: int) -> CorruptError:
        return CorruptError(f"{self.names[frame]} has no pixel whose depth is known.", "bad depth")

    def _no_depth(self) -> Prob3rError:
        return Prob3rError(
            f"{self.root} has no depth in the {self.layout} layout; leave out what needs it, such "
            "as bounds of the overlap."
        )
