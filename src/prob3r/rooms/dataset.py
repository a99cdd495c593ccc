"""Rooms: a data set of rendered scenes with exact geometry, each determined by its number."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, cast, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import PixelMatches
from prob3r.rooms.atlas import read_atlas
from prob3r.rooms.cameras import RoomCameras, add_camera, draw_cameras, intrinsics_for
from prob3r.rooms.draws import Draws
from prob3r.rooms.everyday import add_clutter, project_photograph
from prob3r.rooms.handheld import draw_handheld
from prob3r.rooms.render import Frame, render, sight_lines
from prob3r.rooms.scene import Scene, draw_scene
from prob3r.scenes.readers.items import Seen
from prob3r.scenes.source import Independent
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Views, views_of

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
STYLES = ("staged", "everyday")
SPAN = 2**30  # pairs in a split; torch uses only the low 32 bits of a seed, so they must differ
NUMBERS = 1024  # uniform random numbers that determine one pair
MORE_NUMBERS = 128  # uniform random numbers that determine one more camera
CACHED = 2**18  # pixels whose intermediate results fit the caches of a CPU


class Rooms(Independent, Generic[Seen]):
    """Procedural scenes: furnished rooms and open grounds, seen by two or more cameras.

    A pair is a pure function of the split and its number. It does not depend on the other pairs
    of a batch. It depends on the machine only by rounding. There are ``SPAN`` pairs in a split.
    Lengths are in metres.

    Args:
        split: "train", "validation" or "test".
        size: Height and width of the views in pixels.
        lookalikes: Whether each scene has two or three copies of one object.
        photographs: A folder of photographs, used as textures of some surfaces.
        device: The device that renders.
        compile: Whether to compile the renderer. It is compiled for one number of scenes: that of
            the first batch, or fewer if fewer run faster on this device. Larger batches are cut
            into parts, and the last part is padded.
        samples: The colour of a pixel is the mean of samples x samples rays.
        style: "staged" has vivid surfaces, and upright cameras that orbit one point. "everyday" has
            plainer surfaces, small things on a table and on the floor, cameras like those of
            handheld photographs, and in some scenes a photograph projected onto the surfaces.
        views: Number of cameras of each scene. The first two cameras are those of the pair with the
            same number. Each further camera sees a part of what camera 1 sees.

    Raises:
        Prob3rError: The split or the style is unknown, there are fewer than two views, or the
            folder holds no photograph or one that cannot be read.
    """

    @overload
    def __init__(
        self: "Rooms[Pair]",
        split: str = "train",
        size: tuple[int, int] = (64, 64),
        lookalikes: bool = False,
        photographs: Path | None = None,
        device: torch.device | str = "cpu",
        compile: bool = True,
        samples: int = 1,
        style: str = "staged",
    ) -> None: ...

    @overload
    def __init__(
        self: "Rooms[Views]",
        split: str = "train",
        size: tuple[int, int] = (64, 64),
        lookalikes: bool = False,
        photographs: Path | None = None,
        device: torch.device | str = "cpu",
        compile: bool = True,
        samples: int = 1,
        style: str = "staged",
        *,
        views: int,
    ) -> None: ...

    def __init__(
        self,
        split: str = "train",
        size: tuple[int, int] = (64, 64),
        lookalikes: bool = False,
        photographs: Path | None = None,
        device: torch.device | str = "cpu",
        compile: bool = True,
        samples: int = 1,
        style: str = "staged",
        *,
        views: int = 2,
    ) -> None:
        _check_views(views)
        if split not in SPLITS:
            raise Prob3rError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
        if style not in STYLES:
            raise Prob3rError(f"style is {style!r}; it must be one of {', '.join(STYLES)}.")
        self.split = split
        self.everyday = style == "everyday"
        self.size = size
        self.lookalikes = lookalikes
        self.device = torch.device(device)
        self.samples = samples
        self.views = views
        self.atlas = None if photographs is None else read_atlas(photographs).to(self.device)
        self.compile = compile
        self.chunk: int | None = None

    def __len__(self) -> int:
        return SPAN

    @property
    def noun(self) -> str:
        """What the scenes are: pairs, or scenes of so many views."""
        return "pairs" if self.views == 2 else f"scenes of {self.views} views"

    def __getitem__(self, index: int) -> Seen:
        """Return one scene as a batch of 1; raise as `batch`."""
        return self.batch([index])

    def batch(self, indices: Sequence[int]) -> Seen:
        """Render the scenes with these numbers: a `Pair` if there are two views, else `Views`.

        Raises:
            Prob3rError: There is no number, or one is not from 0 to ``SPAN`` - 1.
        """
        scene, intrinsics, pose = self._posed(indices)
        frame = self._render(scene.single(), intrinsics, pose)
        b, (h, w) = len(indices), self.size
        views = [
            View(
                image=frame.image[:, v].reshape(b, 3, h, w),
                intrinsics=intrinsics[:, v],
                cam_to_world=pose[:, v],
                depth=frame.depth[:, v].reshape(b, h, w),
                valid=frame.valid[:, v].reshape(b, h, w),
                labels=frame.labels[:, v].reshape(b, h, w),
            )
            for v in range(self.views)
        ]
        names = tuple(f"rooms/{self.split}/{i}" for i in indices)
        return cast(Seen, views_of(views, names).named(scenes=names))

    def with_views(self, views: int) -> "Rooms[Views]":
        """Return the same rooms with another number of cameras; both share the photographs.

        The views with the same number are the same in both.

        Raises:
            Prob3rError: There are fewer than two views.
        """
        _check_views(views)
        other = cast("Rooms[Views]", copy.copy(self))
        other.views = views
        return other

    def cameras(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "b v 3 3"], Float[Tensor, "b v 4 4"]]:
        """Return intrinsics (in pixels) and `cam_to_world` of scenes, without rendering them.

        Raises:
            Prob3rError: As in `batch`.
        """
        return self._posed(indices)[1:]

    def prototypes(self, indices: Sequence[int]) -> Int[Tensor, "b k"]:
        """Return which object each object is a copy of.

        Column k, counted from 0, is the object with label k + 1. Objects with equal values are
        look-alikes. The value is -1 for an object that the scene does not have.

        Raises:
            Prob3rError: As in `batch`.
        """
        scene, _ = self._draw(indices)
        return scene.prototype

    def visible_in_1(self, indices: Sequence[int]) -> PixelMatches:
        """Return where view 2's pixels lie in view 1, and whether view 1 sees their points.

        Visibility is found by rays from camera 1, not by comparing depths. It is exact up to
        rounding in single precision.

        Raises:
            Prob3rError: As in `batch`.
        """
        scene, intrinsics, pose = self._posed(indices)
        return sight_lines(scene.single(), intrinsics[:, :2], pose[:, :2], self.size)

    def _posed(
        self, indices: Sequence[int]
    ) -> tuple[Scene, Float[Tensor, "b v 3 3"], Float[Tensor, "b v 4 4"]]:
        """Return scenes, with the intrinsics and the poses of their cameras in float32."""
        scene, cameras = self._draw(indices)
        intrinsics = intrinsics_for(cameras.slope, self.size).float()
        return scene, intrinsics, cameras.cam_to_world.float()

    def _draw(self, indices: Sequence[int]) -> tuple[Scene, RoomCameras]:
        """Return scenes and cameras in double precision, so that rounding changes no choice."""
        if not len(indices):
            raise Prob3rError("indices is empty; it must name at least one pair.")
        offset = SPLITS.index(self.split) * SPAN
        generator = torch.Generator()
        rows, more = [], []
        for index in indices:
            if not 0 <= index < SPAN:
                raise Prob3rError(f"index is {index}; it must be from 0 to {SPAN - 1}.")
            generator.manual_seed(offset + index)
            rows.append(torch.rand(NUMBERS, generator=generator, dtype=torch.float64))
            # Drawn after the numbers of the pair, which are then the same for any number of views.
            shape = self.views - 2, MORE_NUMBERS
            more.append(torch.rand(shape, generator=generator, dtype=torch.float64))
        draws = Draws(torch.stack(rows).to(self.device))
        photographs = 0 if self.atlas is None else len(self.atlas)
        scene = draw_scene(draws, self.lookalikes, photographs, self.everyday)
        if self.everyday:
            scene = add_clutter(draws, scene, photographs)
            cameras = draw_handheld(draws, scene)
            scene = project_photograph(draws, scene, cameras, photographs)
        else:
            cameras = draw_cameras(draws, scene)
        for numbers in torch.stack(more, 1).to(self.device):
            cameras = add_camera(Draws(numbers), scene, cameras)
        return scene, cameras

    def _render(
        self, scene: Scene, intrinsics: Float[Tensor, "b v 3 3"], pose: Float[Tensor, "b v 4 4"]
    ) -> Frame:
        """Render in chunks of one size, so that the renderer is compiled only once."""
        if self.compile:
            try:
                return self._render_compiled(scene, intrinsics, pose)
            except RuntimeError as error:
                self.compile = False
                logger.warning("Rooms are rendered without a compiler, several times slower.")
                logger.debug("The compiler said: %s", error)
        return render(scene, intrinsics, pose, self.size, self.samples, self.atlas)

    def _render_compiled(
        self, scene: Scene, intrinsics: Float[Tensor, "b v 3 3"], pose: Float[Tensor, "b v 4 4"]
    ) -> Frame:
        # Every camera is rendered with a scene of its own: one shape for any number of views.
        scenes, views = pose.shape[:2]
        intrinsics, pose = intrinsics.flatten(0, 1)[:, None], pose.flatten(0, 1)[:, None]
        count = len(pose)
        self.chunk = self.chunk or min(count, self.most_at_once)
        frames = []
        for first in range(0, count, self.chunk):
            # A short chunk is padded with copies of the last camera.
            rows = torch.arange(first, first + self.chunk, device=self.device)
            rows = rows.clamp(max=count - 1)
            part = Scene(*(t[rows // views] for t in scene))
            cameras = intrinsics[rows], pose[rows]
            frame = render(part, *cameras, self.size, self.samples, self.atlas, compiled=True)
            frames.append(frame)
        whole = (torch.cat(tensors)[:count, 0] for tensors in zip(*frames, strict=True))
        return Frame(*(tensor.unflatten(0, (scenes, views)) for tensor in whole))

    @property
    def most_at_once(self) -> int:
        """Images of a chunk at most: so few that a compiled loop's output fits a CPU's cache."""
        height, width = self.size
        return max(1, CACHED // (height * width)) if self.device.type == "cpu" else SPAN


def _check_views(views: int) -> None:
    if views < 2:
        raise Prob3rError(f"views is {views}; a scene needs two views or more.")
