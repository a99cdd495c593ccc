"""The independent check: compares a model's output with matches that were found without the model.

Photographs have no ground truth. The check is a second estimate that does not use the model: a
matcher (`matchers`) finds pixels of two views that show the same point, and LO-RANSAC finds the
relative pose that most matches agree with. Every view is checked with view 1. If the views have
`fine` photographs, the matcher uses those.
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
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.measures.reference import Points
from prob3r.models import Prediction
from prob3r.reliability.classical import NEAR, ClassicalReconstruction, reconstruct
from prob3r.reliability.matchers import MATCHERS
from prob3r.scenes import Pair, View, Views


@dataclass(frozen=True)
class Check:
    """The matches between view 1 and one other view, compared with the model's output.

    Attributes:
        view: Number of the other view.
        matcher: Name of the matcher.
        matches: Number of matches.
        inliers: Number of matches that agree with the pose; 0 if no pose is found.
        agreeing: Number of matches whose distance (see `distance`) is at most `near`.
        distance: Median distance in view 1 between a match and the projection of the other view's
            predicted point, in pixels of view 1 as the model sees it; NaN without a match.
        near: Largest distance at which a match agrees with the output, in pixels of view 1.
        rotation: Angle between the rotations of the other camera by the matches and by the output,
            in degrees; NaN if one of them has no pose.
        direction: Angle between the directions to the other camera, in degrees; NaN likewise.
        intrinsics_known: Whether the intrinsics of both views were given. If not, those of the
            output are used.
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
        """Whether both poses are known, so that `rotation` is not NaN."""
        return isfinite(self.rotation)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as values that fit JSON."""
        return dict(to_json(asdict(self)))


def check_output(
    views: Views, points: Points, cameras: EstimatedCameras, matcher: str
) -> list[Check]:
    """Return the checks of all views except view 1, each with view 1.

    Args:
        views: A batch of one scene.
        points: The output's pointmaps of all views, in camera 1's frame.
        cameras: The cameras of the output.
        matcher: A name in `matchers.MATCHERS`.

    Raises:
        Prob3rError: A package that the matcher needs is not installed.
    """
    return [_checked(views, points, cameras, matcher, view) for view in range(2, views.count + 1)]


def check_pairs(pairs: Sequence[Pair], output: Prediction, matcher: str) -> list[Check]:
    """Return the checks of several pairs, with cameras estimated from the output.

    The true cameras are not used, as in the signals of a run.

    Args:
        pairs: Batches of one pair, in the order of the output.
        output: The output for all of these pairs.
        matcher: A name in `matchers.MATCHERS`.

    Raises:
        Prob3rError: A package that the matcher needs is not installed.
    """
    found = []
    for row, pair in enumerate(pairs):
        view1, view2 = (View(view.image, fine=view.fine) for view in pair.views)
        pair = Pair(view1, view2)
        one = output.map(lambda t, i=row: t[i : i + 1])  # type: ignore[misc]
        cameras = EstimatedCameras.of(pair, one.points, one.confidence[0])
        found += check_output(pair, one.points, cameras, matcher)
    return found


def _checked(
    views: Views, points: Points, cameras: EstimatedCameras, matcher: str, view: int
) -> Check:
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
"""Value of the signal `check_turn`, in degrees, if there is no pose to compare."""


def signals_of(checks: Sequence[Check]) -> dict[str, Float[Tensor, " b"]]:
    """Return the signals of the checks of a batch of pairs, by name.

    - `check_turn`: angle between the rotations of camera 2 by the matches and by the output, in
      degrees; `UNDECIDED` if one of them has no pose.
    - `check_inliers`: one plus the number of matches that agree with the pose.
    """
    return {
        "check_turn": torch.tensor([c.rotation if c.differs else UNDECIDED for c in checks]),
        "check_inliers": torch.tensor([1.0 + check.inliers for check in checks]),
    }


def find_matches(
    pair: Pair, intrinsics: tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]], matcher: str
) -> ClassicalReconstruction:
    """Return the matches of one pair and their pose, in pixels of the views as the model sees them.

    Args:
        pair: A batch of one pair.
        intrinsics: Intrinsics of both views, in pixels.
        matcher: A name in `matchers.MATCHERS`.

    Raises:
        Prob3rError: A package that the matcher needs is not installed.
    """
    fine = _fine(pair.view1, intrinsics[0]), _fine(pair.view2, intrinsics[1])
    found = reconstruct(Pair(*fine).to("cpu"), MATCHERS[matcher])
    pixels1, pixels2 = (
        (pixels + 0.5) * (view.size[0] / finer.size[0]) - 0.5
        for pixels, view, finer in zip(found[:2], pair.views, fine, strict=True)
    )
    return found._replace(pixels1=pixels1, pixels2=pixels2)


def _fine(view: View, intrinsics: Float[Tensor, "3 3"]) -> View:
    """Return the view that the matcher uses: with the `fine` photograph, if there is one."""
    if view.fine is None:
        return View(view.image, intrinsics[None])
    size = view.fine.shape[-2], view.fine.shape[-1]
    return View(view.fine, resize_intrinsics(intrinsics[None], view.size, size))


def reprojected(
    found: ClassicalReconstruction,
    pair: Pair,
    points2: Float[Tensor, "h w 3"],
    intrinsics1: Float[Tensor, "3 3"],
) -> Float[Tensor, " m"]:
    """Return the reprojection error of each match in view 1, in pixels.

    It is the distance between the match's position in view 1 and the projection of view 2's
    predicted point. It is infinite for a point that is behind camera 1 or not finite.

    Args:
        found: The matches.
        pair: A batch of one pair.
        points2: The pointmap of view 2, in camera 1's frame.
        intrinsics1: Intrinsics of view 1, in pixels.
    """
    height, width = pair.view2.size
    column, row = found.pixels2.round().long().unbind(-1)
    seen = points2[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    placed = project(seen[None], intrinsics1[None])[0]
    distances = (placed - found.pixels1).norm(dim=-1)
    return distances.where(distances.isfinite(), torch.inf)
