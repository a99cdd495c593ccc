"""Views and Pair: two or more views of one scene, with their known ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    MatchTruth,
    PatchMatches,
    PoseAndShape,
    invert_rigid,
    mean_depth,
    overlap,
    patch_matches,
    pose_and_shape,
    transform,
)
from prob3r.io.files import printable
from prob3r.scenes.folder import read_folder
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.view import View

Scenes = TypeVar("Scenes", bound="Views")


@dataclass(frozen=True)
class Views:
    """Two or more views of one scene, or a batch of such scenes of one size.

    View 1 is the reference: all pointmaps are in its camera's frame. Ground truth may be unknown.

    Attributes:
        views: The views, the reference first. Each holds one photograph for each row of the batch.
        names: A name for each row of the batch, or empty.
        scenes: The scene that each row shows, or empty if unknown. Rows of one scene have equal
            strings; different scenes have different strings.
    """

    views: tuple[View, ...]
    names: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()

    @classmethod
    def from_images(cls, images: Sequence[str | Path], model: Framing | FramesImages) -> "Views":
        """Read photographs of one scene, without cameras and depth, as a batch of one.

        Args:
            images: The files, the reference first.
            model: The model that the photographs are framed for, or a `Framing`.

        Raises:
            Prob3rError: There are fewer than two photographs, or one cannot be used; see
                `load_photograph`.
        """
        if len(images) < 2:
            raise Prob3rError(f"There are {len(images)} photographs; give two or more.")
        names = (printable(", ".join(Path(image).stem for image in images)),)
        return views_of([View.from_image(image, model, fine=True) for image in images], names)

    @classmethod
    def from_folder(cls, folder: str | Path, model: Framing | FramesImages) -> "Views":
        """Read the views of a folder with a `pair.json`, as a batch of one with the folder's name.

        Args:
            folder: The folder; see `prob3r.scenes.folder`. It counts as a scene of its own.
            model: As for `from_images`.

        Raises:
            Prob3rError: The folder or a photograph cannot be used; see `read_folder`.
        """
        entries = read_folder(folder)
        views = [View.from_image(model=model, fine=True, **entry._asdict()) for entry in entries]
        home = Path(folder).resolve()
        return views_of(views, (printable(home.name),)).named(scenes=(str(home),))

    def __len__(self) -> int:
        """Return the number of rows in the batch."""
        return len(self.views[0].image)

    def __getitem__(self: Scenes, index: int | slice | Sequence[int]) -> Scenes:
        """Return a batch of the chosen rows; an integer gives a batch of one."""
        rows = [index] if isinstance(index, int) else index
        picked = torch.arange(len(self))[rows]
        names, scenes = (
            tuple(words[i] for i in picked.tolist()) if words else ()
            for words in (self.names, self.scenes)
        )
        chosen = self.map(lambda t: t[picked.to(t.device)])
        return chosen._with(chosen.views, names, scenes)

    @property
    def count(self) -> int:
        """The number of views."""
        return len(self.views)

    @property
    def images(self) -> tuple[Float[Tensor, "b 3 _h _w"], ...]:
        """The photographs, one batch a view: `model(*views.images)`."""
        return tuple(view.image for view in self.views)

    def view(self, number: int) -> View:
        """Return a view by its number, from 1; raise Prob3rError if there is no such view."""
        if not 1 <= number <= self.count:
            raise Prob3rError(f"There is no view {number}; views count from 1 to {self.count}.")
        return self.views[number - 1]

    def pair(self, i: int, j: int) -> "Pair":
        """Return two views by their numbers, from 1; the first becomes the reference."""
        return Pair(self.view(i), self.view(j), self.names, self.scenes)

    def named(
        self: Scenes, names: Sequence[str] | None = None, scenes: Sequence[str] | None = None
    ) -> Scenes:
        """Return the same views with other names or other scenes; None keeps them."""
        names = self.names if names is None else tuple(names)
        return self._with(self.views, names, self.scenes if scenes is None else tuple(scenes))

    @property
    def has_poses(self) -> bool:
        """Whether the poses of all views are known."""
        return all(view.cam_to_world is not None for view in self.views)

    @property
    def has_truth(self) -> bool:
        """Whether the true pointmaps of all views are known, in camera 1's frame."""
        known = (t for view in self.views for t in (view.depth, view.intrinsics))
        return self.has_poses and all(t is not None for t in known)

    @property
    def cam_to_world(self) -> Float[Tensor, "b v 4 4"]:
        """The poses of all cameras in camera 1's frame.

        Raises:
            Prob3rError: A view has no pose.
        """
        poses = [view.cam_to_world for view in self.views]
        known = [pose for pose in poses if pose is not None]
        if len(known) < len(poses):
            raise Prob3rError("These views have no relative pose: all need cam_to_world.")
        return invert_rigid(known[0])[:, None] @ torch.stack(known, 1)

    @property
    def points(self) -> tuple[Float[Tensor, "b _h _w 3"], ...]:
        """The true pointmaps of all views in camera 1's frame, in the scene's unit.

        Raises:
            Prob3rError: A view has no depth, no intrinsics or no pose.
        """
        first, *others = self.views
        poses = self.cam_to_world.unbind(1)[1:]
        moved = (transform(view.points, pose) for view, pose in zip(others, poses, strict=True))
        return (first.points, *moved)

    @property
    def valid(self) -> tuple[Bool[Tensor, "b _h _w"], ...]:
        """Masks of the pixels whose true points are reliable; raises as `View.known`."""
        return tuple(view.known for view in self.views)

    @property
    def mean_depth(self) -> Float[Tensor, " b"]:
        """The mean depth of all valid points, each in its own camera's frame; NaN without any.

        Raises:
            Prob3rError: A view has no depth or no intrinsics.
        """
        return mean_depth([view.points for view in self.views], self.valid)

    def map(self: Scenes, function: Callable[[Tensor], Tensor]) -> Scenes:
        """Return views with `function` applied to every tensor that is not None."""
        return self.with_each(lambda view: view.map(function))

    def with_each(self: Scenes, function: Callable[[View], View]) -> Scenes:
        """Return views with `function` applied to each view."""
        views = tuple(function(view) for view in self.views)
        return self._with(views, self.names, self.scenes)

    def with_first(self: Scenes, view: View) -> Scenes:
        """Return the views with view 1 replaced."""
        return self._with((view, *self.views[1:]), self.names, self.scenes)

    def resized_for(self: Scenes, model: Framing | FramesImages) -> Scenes:
        """Return the views at the size of another model; see `Framing.fitted`."""
        framing = Framing.of(model)
        return self.with_each(lambda view: view.resized(framing.fitted(view.size)))

    def to(self: Scenes, device: torch.device | str) -> Scenes:
        """Return the views with every tensor on `device`."""
        return self.map(lambda t: t.to(device))

    def _with(
        self: Scenes, views: tuple[View, ...], names: tuple[str, ...], scenes: tuple[str, ...]
    ) -> Scenes:
        return type(self)(views, names, scenes)


@dataclass(frozen=True, init=False)
class Pair(Views):
    """Two views of one scene, or a batch of such scenes of one size; view 1 is the reference."""

    def __init__(
        self, view1: View, view2: View, names: Sequence[str] = (), scenes: Sequence[str] = ()
    ):
        object.__setattr__(self, "views", (view1, view2))
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "scenes", tuple(scenes))

    def _with(
        self, views: tuple[View, ...], names: tuple[str, ...], scenes: tuple[str, ...]
    ) -> "Pair":
        view1, view2 = views
        return Pair(view1, view2, names, scenes)

    @property
    def view1(self) -> View:
        """View 1, the reference."""
        return self.views[0]

    @property
    def view2(self) -> View:
        """View 2."""
        return self.views[1]

    def with_views(self, view1: View | None = None, view2: View | None = None) -> "Pair":
        """Return the pair with view 1, view 2, or both replaced."""
        return Pair(view1 or self.view1, view2 or self.view2, self.names, self.scenes)

    @classmethod
    def from_images(cls, images: Sequence[str | Path], model: Framing | FramesImages) -> "Pair":
        """Read two photographs of one scene as a batch of one; see `Views.from_images`."""
        if len(images) != 2:
            raise Prob3rError(f"There are {len(images)} photographs; a pair takes two.")
        views = Views.from_images(images, model)
        view1, view2 = views.views
        return cls(view1, view2, views.names)

    @classmethod
    def from_folder(cls, folder: str | Path, model: Framing | FramesImages) -> "Pair":
        """Read the two views of a folder as a batch of one; see `Views.from_folder`."""
        views = Views.from_folder(folder, model)
        if not isinstance(views, Pair):
            raise Prob3rError(
                f"{Path(folder) / 'pair.json'} holds {views.count} views; a pair takes two."
            )
        return views

    @property
    def view2_to_view1(self) -> Float[Tensor, "b 4 4"]:
        """The pose of camera 2 in camera 1's frame; raises Prob3rError if it is unknown."""
        return self.cam_to_world[:, 1]

    def errors_of(self, points: Sequence[Float[Tensor, "b _h _w 3"]]) -> PoseAndShape:
        """Return the errors of predicted pointmaps of both views; see `pose_and_shape`.

        Raises:
            Prob3rError: The ground truth is not known.
        """
        (found1, found2), (true1, true2), (valid1, valid2) = points, self.points, self.valid
        return pose_and_shape(found1, found2, true1, true2, valid1, valid2, self.view2_to_view1)

    @property
    def match_truth(self) -> MatchTruth:
        """The ground truth for true matches; raises Prob3rError if it is unknown."""
        view1 = self.view1
        if view1.depth is None or view1.intrinsics is None:
            raise Prob3rError("This pair has no true matches: view 1 needs depth and intrinsics.")
        return MatchTruth(
            self.points[1], self.valid[1], view1.depth, self.valid[0], view1.intrinsics
        )

    def patch_matches(self, patch: int) -> PatchMatches:
        """Return the true match in view 1 of each patch of view 2; see `geometry.patch_matches`."""
        return patch_matches(self.match_truth, patch)

    def overlap(self) -> Float[Tensor, " b"]:
        """Return the share of view 2's valid pixels that view 1 sees; see `geometry.overlap`."""
        return overlap(self.match_truth)

    def swap(self) -> "Pair":
        """Return the pair with the views exchanged."""
        return Pair(self.view2, self.view1, self.names, self.scenes)


def views_of(views: Sequence[View], names: Sequence[str] = ()) -> Views:
    """Return views of one scene: a `Pair` if there are two."""
    return Pair(views[0], views[1], names) if len(views) == 2 else Views(tuple(views), tuple(names))


def stack(batches: Sequence[Scenes]) -> Scenes:
    """Concatenate batches; a tensor that is None in one of them is None in the result.

    Raises:
        Prob3rError: There is no batch, or the image sizes differ.
    """
    if len({tuple(view.size for view in batch.views) for batch in batches}) != 1:
        raise Prob3rError("Pairs of a batch must be at least one and share one image size.")
    names = tuple(name for batch in batches for name in batch.names)
    known = all(batch.scenes for batch in batches)
    scenes = tuple(scene for batch in batches for scene in batch.scenes) if known else ()
    columns = zip(*(batch.views for batch in batches), strict=True)
    return batches[0]._with(tuple(_stack(views) for views in columns), names, scenes)


def _stack(views: Sequence[View]) -> View:
    columns = {f.name: [getattr(v, f.name) for v in views] for f in fields(View)}
    joined: dict[str, Any] = {
        k: None if any(t is None for t in c) else torch.cat(c) for k, c in columns.items()
    }
    return View(**joined)
