"""Clouds of points: nearest neighbours, registration, normals, and how far two clouds are apart.

Neighbours are found with scipy's k-d trees, on the CPU. Clouds of several views have millions of
points, and a matrix of all distances does not fit into memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry.alignment import align
from prob3r.geometry.metrics import median
from prob3r.geometry.pointmaps import transform

_AT_ONCE = 2**18  # points whose neighbourhoods are held together
_ENOUGH = 1e-6  # relative change below which ICP ends
_FEWEST = 3  # points that determine a motion or a plane


class Neighbours(NamedTuple):
    """The nearest neighbours of points.

    Attributes:
        distance: To each of them; infinite where there is none.
        rows: Their numbers.
    """

    distance: Float[Tensor, " n *k"]
    rows: Int[Tensor, " n *k"]


class PointTree:
    """A k-d tree of a cloud, to look up nearest neighbours in.

    Args:
        points: The cloud.
    """

    def __init__(self, points: Float[Tensor, "n 3"]):
        try:
            from scipy.spatial import cKDTree
        except ImportError as error:
            raise Prob3rError(
                "Nearest points are found with scipy, which is not installed; "
                "pip install 'prob3r[studies]' brings it."
            ) from error
        self.points = points
        self._tree = cKDTree(points.detach().double().cpu().numpy())

    def nearest(self, points: Float[Tensor, "m 3"], count: int = 1) -> Neighbours:
        """Return the nearest neighbours of points, the nearest first.

        Args:
            points: Whose neighbours are wanted.
            count: How many of each; with 1 the results have one axis.
        """
        distance, index = self._tree.query(
            points.detach().double().cpu().numpy(), k=count, workers=-1
        )
        return Neighbours(
            torch.from_numpy(distance).to(points), torch.from_numpy(index).to(points.device)
        )


def register(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "m 3"],
    radius: int | float,
    *,
    iterations: int = 30,
) -> Float[Tensor, "4 4"]:
    """The rigid motion of a cloud onto another by ICP, point to point (Besl and McKay, 1992).

    It starts where the clouds are. Every iteration moves the source by the least-squares fit onto
    the nearest target points, where these lie within the radius. It ends when neither the share of
    such points nor their root mean square distance changes by 1e-6, as Open3D's does by default.

    Args:
        source: The cloud to move.
        target: The cloud that stays.
        radius: The largest distance of points that correspond.
        iterations: At most so many fits.
    """
    tree, motion = PointTree(target), torch.eye(4).to(source)
    moved, before = source, None
    for iteration in range(iterations + 1):
        near = tree.nearest(moved)
        within = near.distance <= radius
        if iteration == iterations or within.sum() < _FEWEST:
            break
        state = within.to(source).mean(), near.distance[within].square().mean().sqrt()
        if before and all(abs(a - b) < _ENOUGH for a, b in zip(state, before, strict=True)):
            break
        before = state
        fit = align(moved[within][None], target[near.rows[within]][None], scale=False)
        step = fit.matrix()
        moved, motion = transform(moved[None], step)[0], step[0] @ motion
    return motion


def normals(points: Float[Tensor, "n 3"], neighbours: int = 30) -> Float[Tensor, "n 3"]:
    """Unit normals of a cloud, of either sign.

    The normal of a point is the direction in which its nearest neighbours, itself among them,
    spread the least.

    Args:
        points: The cloud.
        neighbours: How many of them.

    Returns:
        The normals; the z axis for clouds of less than three points.
    """
    count = min(neighbours, len(points))
    if count < _FEWEST:
        return torch.tensor([0.0, 0.0, 1.0]).to(points).expand(len(points), 3)
    tree, parts = PointTree(points), []
    for some in points.split(_AT_ONCE):
        near = points[tree.nearest(some, count).rows]  # m k 3
        centred = near - near.mean(dim=1, keepdim=True)
        parts.append(torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., 0])
    return torch.cat(parts)


class CloudErrors(NamedTuple):
    """How far a predicted cloud is from the true one, both in the unit of the truth.

    Attributes:
        accuracy: Mean distance of predicted points to the nearest true point.
        accuracy_median: Median of the same.
        completeness: Mean distance of true points to the nearest predicted point.
        completeness_median: Median of the same.
        normal_consistency: Mean of `|cos|` of the angle between the normals of nearest points,
            averaged over both directions.
        normal_consistency_median: The same of the medians.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float
    normal_consistency: float
    normal_consistency_median: float


def cloud_errors(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> CloudErrors:
    """Accuracy, completeness and normal consistency of a cloud that is aligned already.

    Medians are those of numpy: of an even number, the mean of the middle two.
    """
    own, theirs = normals(predicted), normals(true)
    to_true, agreed = _nearest(predicted, own, true, theirs)
    to_predicted, agreed_back = _nearest(true, theirs, predicted, own)
    return CloudErrors(
        float(to_true.mean()),
        _middle(to_true),
        float(to_predicted.mean()),
        _middle(to_predicted),
        float(agreed.mean() + agreed_back.mean()) / 2,
        (_middle(agreed) + _middle(agreed_back)) / 2,
    )


def _nearest(
    points: Float[Tensor, "n 3"],
    own: Float[Tensor, "n 3"],
    cloud: Float[Tensor, "m 3"],
    theirs: Float[Tensor, "m 3"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The distance of each point to a cloud, and `|cos|` of the angle between the normals there."""
    near = PointTree(cloud).nearest(points)
    return near.distance, (theirs[near.rows] * own).sum(dim=-1).abs()


def _middle(values: Float[Tensor, " n"]) -> float:
    return float(median(values))
