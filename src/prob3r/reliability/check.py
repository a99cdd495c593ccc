"""The independent check: matches found before any geometry is known, held against the output.

Of a photograph nobody knows the truth. This is a second opinion that shares nothing with the
model: a matcher (`matchers`) finds pixels of two views that show the same point, and LO-RANSAC the
pose that most of them agree on. Every view is checked with view 1. Where the views have `fine`
photographs, matches are looked for in those.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    median,
    project,
    resize_intrinsics,
    rotation_error,
    translation_error,
)
from prob3r.io.files import to_json
from prob3r.measures.reconstruction import Cameras
from prob3r.measures.reference import Points
from prob3r.models import Prediction
from prob3r.reliability.classical import NEAR, Reconstruction, reconstruct
from prob3r.reliability.matchers import MATCHERS
from prob3r.scenes import Pair, View, Views


@dataclass(frozen=True)
class Check:
    """What matches say of the output's view 1 and one other view.

    Attributes:
        view: Number of the other view.
        matcher: Name of the matcher.
        matches: How many matches it found.
        inliers: How many of them agree with one pose; 0 if no pose is found.
        agreeing: How many matches the output's pointmaps put within `near` pixels of each other.
        distance: Median distance of the matches from where the output's pointmaps put them, in
            pixels of view 1 as the model sees it; NaN without a match.
        near: Pixels of view 1 within which a match agrees.
        rotation: Between the rotations of camera 2 by the matches and by the output, in degrees;
            NaN where either has no pose.
        direction: Between the directions to camera 2, in degrees; NaN likewise.
        intrinsics_known: Whether the intrinsics were given. Those of the output are used if not.
    """

    view: int
    matcher: str
    matches: int
    inliers: int
    agreeing: int
    distance: float
    near: float
    rotation: float
    direction: float
    intrinsics_known: bool

    @property
    def pose_found(self) -> bool:
        """Whether enough matches agree on a pose."""
        return self.inliers > 0

    @property
    def differs(self) -> bool:
        """Whether both poses are known."""
        return isfinite(self.rotation)

    def to_json(self) -> dict[str, Any]:
        """Return what the attributes say, as JSON can hold it."""
        return dict(to_json(asdict(self)))


def check_output(views: Views, points: Points, cameras: Cameras, matcher: str) -> list[Check]:
    """Return what matches say of every view but the first, each with view 1.

    Args:
        views: One scene.
        points: The output's pointmaps of all views.
        cameras: Of the output.
        matcher: A name of `matchers.MATCHERS`.

    Raises:
        Prob3rError: What the matcher needs is not installed.
    """
    return [_checked(views, points, cameras, matcher, view) for view in range(2, views.count + 1)]


def check_pairs(pairs: Sequence[Pair], output: Prediction, matcher: str) -> list[Check]:
    """Return what matches say of each of several pairs, with cameras read off the output.

    As for the signals of a run, what is known of the true cameras is not used.

    Args:
        pairs: Batches of one, in the order of the output.
        output: Of all of them.
        matcher: A name of `matchers.MATCHERS`.
    """
    found = []
    for row, pair in enumerate(pairs):
        view1, view2 = (View(view.image, fine=view.fine) for view in pair.views)
        pair = Pair(view1, view2)
        one = output.map(lambda t, i=row: t[i : i + 1])  # type: ignore[misc]
        cameras = Cameras.of(pair, one.points, one.confidence[0])
        found += check_output(pair, one.points, cameras, matcher)
    return found


def _checked(views: Views, points: Points, cameras: Cameras, matcher: str, view: int) -> Check:
    pair = views.pair(1, view)
    matrices = cameras.intrinsics[0], cameras.intrinsics[view - 1]
    found = find_matches(pair, matrices, matcher)
    own = points[view - 1][0].cpu()
    distances = reprojected(found, pair, own, matrices[0].cpu())
    near = NEAR * max(pair.view1.size)
    rotation = direction = torch.nan
    if found.pose2_to_1 is not None and cameras.inliers[view - 1] is not None:
        one, other = found.pose2_to_1[None].float(), cameras.poses[:, view - 1].cpu()
        rotation = float(rotation_error(one[:, :3, :3], other[:, :3, :3]))
        direction = float(translation_error(one[:, :3, 3], other[:, :3, 3], None))
    return Check(
        view=view,
        matcher=matcher,
        matches=len(found.inliers),
        inliers=int(found.inliers.sum()),
        agreeing=int((distances <= near).sum()),
        distance=float(median(distances)) if len(distances) else torch.nan,
        near=near,
        rotation=rotation,
        direction=direction,
        intrinsics_known=all(v.intrinsics is not None for v in pair.views),
    )


UNDECIDED = 15.0
"""Degrees that stand for the difference of rotations where there is no pose to compare."""


def signals_of(checks: Sequence[Check]) -> dict[str, Float[Tensor, " b"]]:
    """Return the signals of the checks of a batch of pairs, by name.

    - `check_turn`: degrees between the rotations of camera 2 by the matches and by the output;
      `UNDECIDED` where either has no pose.
    - `check_inliers`: one more than the number of matches that agree on a pose.
    """
    return {
        "check_turn": torch.tensor([c.rotation if c.differs else UNDECIDED for c in checks]),
        "check_inliers": torch.tensor([1.0 + check.inliers for check in checks]),
    }


def find_matches(
    pair: Pair, intrinsics: tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]], matcher: str
) -> Reconstruction:
    """Return the matches of one pair and their pose, at pixels of the views as the model sees them.

    Args:
        pair: A batch of one.
        intrinsics: Of both views.
        matcher: A name of `matchers.MATCHERS`.
    """
    fine = _fine(pair.view1, intrinsics[0]), _fine(pair.view2, intrinsics[1])
    found = reconstruct(Pair(*fine).to("cpu"), MATCHERS[matcher])
    pixels1, pixels2 = (
        (pixels + 0.5) * (view.size[0] / finer.size[0]) - 0.5
        for pixels, view, finer in zip(found[:2], pair.views, fine, strict=True)
    )
    return found._replace(pixels1=pixels1, pixels2=pixels2)


def _fine(view: View, intrinsics: Float[Tensor, "3 3"]) -> View:
    """Return a view with the pixels that matches are looked for in."""
    if view.fine is None:
        return View(view.image, intrinsics[None])
    size = view.fine.shape[-2], view.fine.shape[-1]
    return View(view.fine, resize_intrinsics(intrinsics[None], view.size, size))


def reprojected(
    found: Reconstruction,
    pair: Pair,
    points2: Float[Tensor, "h w 3"],
    intrinsics1: Float[Tensor, "3 3"],
) -> Float[Tensor, " m"]:
    """Return how far matches are from where view 2's pointmap puts them in view 1, in pixels.

    Points behind camera 1 and those that are not finite are infinitely far.

    Args:
        found: The matches.
        pair: One pair.
        points2: The pointmap of view 2, in camera 1's frame.
        intrinsics1: Of view 1.
    """
    height, width = pair.view2.size
    column, row = found.pixels2.round().long().unbind(-1)
    seen = points2[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    placed = project(seen[None], intrinsics1[None])[0]
    distances = (placed - found.pixels1).norm(dim=-1)
    return distances.where(distances.isfinite(), torch.inf)
