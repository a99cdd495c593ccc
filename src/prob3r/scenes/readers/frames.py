"""Frames: the images of a data set, each with its depth and its camera."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import Framing, Window
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.files import image_size, read_depth, reading, reason_of
from prob3r.scenes.views import View


class Frames(ABC):
    """The frames of a data set, which are read one by one.

    Attributes:
        root: The data set's folder.
        framing: What frames the images.
        names: Of the frames, each unique.
        scenes: Of each frame.
    """

    layout: ClassVar[str]
    depth_unit: ClassVar[float] = 1.0
    """The scene's unit of length for each step of a depth file."""
    depth_range: ClassVar[tuple[float, float]] = (1e-3, 1e3)
    """The nearest and farthest depth that make sense."""
    frames_per_scene: ClassVar[int] = 100
    """Of how many frames, evenly spaced, pairs are sought if the data set does not list them."""

    root: Path
    framing: Framing
    names: Sequence[str]
    scenes: Sequence[str]

    @abstractmethod
    def image(self, frame: int) -> Path:
        """Return the image file of a frame."""

    @abstractmethod
    def depth_file(self, frame: int) -> Path:
        """Return the depth file of a frame."""

    @abstractmethod
    def camera(self, frame: int) -> Camera:
        """Return the camera of a frame; raises CorruptError where it cannot be read."""

    def depth(self, frame: int) -> Float[Tensor, "h w"]:
        """Return z in the scene's unit of length, 0 where unknown.

        Raises:
            CorruptError: It cannot be read.
        """
        return read_depth(self.depth_file(frame), self.depth_unit)

    def checked_camera(self, frame: int) -> Camera:
        """Return the camera of a frame; raises CorruptError where it makes no sense."""
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
        """Return a frame as the model expects it, with intrinsics and depth to match.

        Raises:
            CorruptError: The frame cannot be used.
        """
        path, name = self.image(frame), self.names[frame]
        camera, depth = self.checked_camera(frame), self.depth(frame)
        size = image_size(path)
        for what, other in (("depth", tuple(depth.shape)), ("camera", camera.size or size)):
            if abs(other[0] * size[1] / size[0] - other[1]) > 1:
                raise CorruptError(
                    f"{name}: the image is {size[1]}x{size[0]} pixels but its {what} is for "
                    f"{other[1]}x{other[0]}; they must be of one shape.",
                    "bad depth" if what == "depth" else "bad camera",
                )
        if depth.shape != size:  # coarser sensors than the camera are common
            depth = Window((depth.shape[0], depth.shape[1]), size, 0, 0, size).nearest(depth)[0]
        with reading(path):
            view = View.from_image(
                path,
                self.framing,
                intrinsics=camera.intrinsics_at(size),
                cam_to_world=camera.cam_to_world,
                depth=depth,
            )
        if not view.known.any():
            raise CorruptError(f"{name} has no pixel whose depth is known.", "bad depth")
        return view
