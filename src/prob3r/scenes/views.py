"""View and Pair: what a model is run over, with as much of the truth as is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    MatchTruth,
    PatchMatches,
    PoseAndShape,
    invert_rigid,
    overlap,
    patch_matches,
    pose_and_shape,
    transform,
    unproject,
)
from prob3r.io.files import printable
from prob3r.scenes.folder import read_folder
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.photographs import load_photograph


@dataclass(frozen=True)
class View:
    """Photographs of one size, each with what is known of its camera and its scene.

    Attributes:
        image: Colours in [-1, 1].
        intrinsics: Pinhole matrices in pixels, pixel centres at integer coordinates.
        cam_to_world: Camera poses, OpenCV axes, in the scene's unit of length.
        depth: Distance along the camera's z axis, in the scene's unit; 0 where unknown.
        valid: Where `depth` can be trusted.
        labels: The instance that each pixel shows.
    """

    image: Float[Tensor, "b 3 h w"]
    intrinsics: Float[Tensor, "b 3 3"] | None = None
    cam_to_world: Float[Tensor, "b 4 4"] | None = None
    depth: Float[Tensor, "b h w"] | None = None
    valid: Bool[Tensor, "b h w"] | None = None
    labels: Integer[Tensor, "b h w"] | None = None

    @classmethod
    def from_image(
        cls,
        image: str | Path,
        model: Framing | FramesImages,
        *,
        intrinsics: Float[Tensor, "1 3 3"] | None = None,
        cam_to_world: Float[Tensor, "1 4 4"] | None = None,
        depth: Float[Tensor, "fh fw"] | None = None,
    ) -> "View":
        """Return a photograph as a model expects it, with intrinsics and depth to match.

        The arguments, and what is raised, are those of `load_photograph`.
        """
        framed, intrinsics, depth, valid = load_photograph(
            image, model, intrinsics=intrinsics, depth=depth
        )
        return cls(framed, intrinsics, cam_to_world, depth, valid)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def points(self) -> Float[Tensor, "b h w 3"]:
        """The true pointmap in this camera's own frame; raises Prob3rError where it is unknown."""
        if self.depth is None or self.intrinsics is None:
            raise Prob3rError("This view has no true pointmap: it needs depth and intrinsics.")
        return unproject(self.depth, self.intrinsics)

    @property
    def known(self) -> Bool[Tensor, "b h w"]:
        """Where the depth can be trusted: `valid` if given, else where there is one.

        Raises:
            Prob3rError: There is neither a mask nor depth.
        """
        if self.valid is not None:
            return self.valid
        if self.depth is None:
            raise Prob3rError("This view has no valid mask: it needs depth or a mask.")
        return self.depth > 0

    def map(self, function: Callable[[Tensor], Tensor]) -> "View":
        """Return a view whose every known tensor went through `function`."""
        known: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {k: t if t is None else function(t) for k, t in known.items()}
        return View(**mapped)


@dataclass(frozen=True)
class Pair:
    """Two views of one scene, or a batch of such pairs of one size.

    View 1 is the reference: every pointmap is in its camera's frame. Any truth may be absent.

    Attributes:
        view1: The reference.
        view2: The other view.
        names: What each pair is called.
        scenes: Which scene each pair is of, if it is known; no two scenes share a name.
    """

    view1: View
    view2: View
    names: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()

    @classmethod
    def from_images(
        cls, image1: str | Path, image2: str | Path, model: Framing | FramesImages
    ) -> "Pair":
        """Return two photographs of which nothing else is known, as a batch of one.

        Args:
            image1: The file of view 1, the reference.
            image2: The file of view 2.
            model: The model that the pair is for, which says how photographs are resized and
                cropped, or a `Framing` that says it outright.

        Raises:
            Prob3rError: A photograph cannot be used; see `load_photograph`.
        """
        names = (printable(f"{Path(image1).stem}, {Path(image2).stem}"),)
        return cls(View.from_image(image1, model), View.from_image(image2, model), names)

    @classmethod
    def from_folder(cls, folder: str | Path, model: Framing | FramesImages) -> "Pair":
        """Return the pair of a folder with a `pair.json`, as a batch of one named after it.

        Args:
            folder: Two photographs and what is known of them; see `prob3r.scenes.folder`. It counts
                as a scene of its own.
            model: As for `from_images`.

        Raises:
            Prob3rError: The folder or a photograph cannot be used; see `read_folder`.
        """
        first, second = (
            View.from_image(model=model, **entry._asdict()) for entry in read_folder(folder)
        )
        home = Path(folder).resolve()
        return cls(first, second, (printable(home.name),), (str(home),))

    def __len__(self) -> int:
        return len(self.view1.image)

    def __getitem__(self, index: int | slice | Sequence[int]) -> "Pair":
        """Return a batch of the chosen pairs; an integer gives a batch of one."""
        rows = [index] if isinstance(index, int) else index
        picked = torch.arange(len(self))[rows]
        names, scenes = (
            tuple(words[i] for i in picked.tolist()) if words else ()
            for words in (self.names, self.scenes)
        )
        chosen = self.map(lambda t: t[picked.to(t.device)])
        return replace(chosen, names=names, scenes=scenes)

    @property
    def has_poses(self) -> bool:
        """Whether the relative pose of the two cameras is known."""
        return self.view1.cam_to_world is not None and self.view2.cam_to_world is not None

    @property
    def has_truth(self) -> bool:
        """Whether the true pointmaps of both views are known, in camera 1's frame."""
        known = (self.view1.depth, self.view1.intrinsics, self.view2.depth, self.view2.intrinsics)
        return self.has_poses and all(t is not None for t in known)

    @property
    def view2_to_view1(self) -> Float[Tensor, "b 4 4"]:
        """The pose of camera 2 in camera 1's frame; raises Prob3rError where it is unknown."""
        first, second = self.view1.cam_to_world, self.view2.cam_to_world
        if first is None or second is None:
            raise Prob3rError("This pair has no relative pose: both views need cam_to_world.")
        return invert_rigid(first) @ second

    @property
    def points(self) -> tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w 3"]]:
        """The true pointmaps of both views in camera 1's frame, in the scene's unit."""
        return self.view1.points, transform(self.view2.points, self.view2_to_view1)

    @property
    def valid(self) -> tuple[Bool[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
        """Where the true pointmaps of both views can be trusted."""
        return self.view1.known, self.view2.known

    def errors_of(
        self, points: tuple[Float[Tensor, "b h w 3"], Float[Tensor, "b h w 3"]]
    ) -> PoseAndShape:
        """Return every error of predicted pointmaps of both views, pair by pair."""
        return pose_and_shape(
            points[0], points[1], *self.points, *self.valid, pose2_to_1=self.view2_to_view1
        )

    @property
    def match_truth(self) -> MatchTruth:
        """What true matches follow from; raises Prob3rError where it is unknown."""
        view1 = self.view1
        if view1.depth is None or view1.intrinsics is None:
            raise Prob3rError("This pair has no true matches: view 1 needs depth and intrinsics.")
        return MatchTruth(
            self.points[1], self.valid[1], view1.depth, self.valid[0], view1.intrinsics
        )

    def patch_matches(self, patch: int) -> PatchMatches:
        """Return the view-1 patch that holds the match of each view-2 patch, and if it is seen."""
        return patch_matches(self.match_truth, patch)

    def overlap(self) -> Float[Tensor, " b"]:
        """Return the share of view 2's valid pixels that view 1 sees."""
        return overlap(self.match_truth)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Pair":
        """Return a pair whose every known tensor went through `function`."""
        return replace(self, view1=self.view1.map(function), view2=self.view2.map(function))

    def to(self, device: torch.device | str) -> "Pair":
        """Return the pair with every tensor on `device`."""
        return self.map(lambda t: t.to(device))

    def swap(self) -> "Pair":
        """Return the pair with the views exchanged."""
        return replace(self, view1=self.view2, view2=self.view1)


def stack(pairs: Sequence[Pair]) -> Pair:
    """Return one batch of several pairs; a truth that any of them lacks is left out.

    Raises:
        Prob3rError: There is no pair, or their sizes differ.
    """
    if len({(p.view1.size, p.view2.size) for p in pairs}) != 1:
        raise Prob3rError("Pairs of a batch must be at least one and share one image size.")
    names = tuple(name for p in pairs for name in p.names)
    known = all(p.scenes for p in pairs)
    scenes = tuple(scene for p in pairs for scene in p.scenes) if known else ()
    return Pair(_stack([p.view1 for p in pairs]), _stack([p.view2 for p in pairs]), names, scenes)


def _stack(views: Sequence[View]) -> View:
    columns = {f.name: [getattr(v, f.name) for v in views] for f in fields(View)}
    joined: dict[str, Any] = {
        k: None if any(t is None for t in c) else torch.cat(c) for k, c in columns.items()
    }
    return View(**joined)
