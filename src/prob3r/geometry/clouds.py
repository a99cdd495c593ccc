"""Point clouds: nearest neighbours, registration, normals, and errors of a cloud.

Neighbours are found with scipy's k-d trees, on the CPU. Clouds of several views have millions of
points, and a matrix of all distances would not fit into memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry.alignment import align
from prob3r.geometry.metrics import median
from prob3r.geometry.pointmaps import transform

_AT_ONCE = 2**18  # points whose neighbourhoods are in memory at once
_ENOUGH = 1e-6  # change of the share and of the distance below which ICP ends
_FEWEST = 3  # fewest points that determine a motion or a plane


class Neighbours(NamedTuple):
    """The nearest neighbours of points.

    Attributes:
        distance: Distance to each neighbour; infinite if the cloud has too few points.
        rows: Rows of the neighbours in the cloud.
    """

    distance: Float[Tensor, " n *k"]
    rows: Int[Tensor, " n *k"]


class PointTree:
    """A k-d tree of a cloud, for nearest-neighbour queries.

    Args:
        points: The cloud.

    Raises:
        Prob3rError: Scipy is not installed.
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
            points: The points whose neighbours are looked up, in the frame of the cloud.
            count: Number of neighbours of each point. With 1, the results have one axis only.
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
    """The rigid motion of a cloud onto another by point-to-point ICP (Besl and McKay, 1992).

    ICP starts from the identity. Every iteration takes the source points whose nearest target point
    lies within the radius, and moves the source by the least-squares fit of these points. ICP ends
    when the share of such points and their root mean square distance both change by less than 1e-6
    (the defaults of Open3D), or when there are fewer than 3 such points.

    Args:
        source: The cloud to move.
        target: The cloud that stays, in the same unit.
        radius: Largest distance between corresponding points, in the unit of the clouds.
        iterations: Largest number of fits.

    Returns:
        The motion, as a matrix for homogeneous points of the source.

    Raises:
        Prob3rError: Scipy is not installed.
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
    """Unit normals of a cloud. Their sign is arbitrary.

    The normal of a point is the direction of least variance of its nearest neighbours. The point
    itself is one of them.

    Args:
        points: The cloud.
        neighbours: Number of neighbours for each normal.

    Returns:
        The normals; the z axis if the cloud has fewer than three points.

    Raises:
        Prob3rError: Scipy is not installed.
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
    """Errors of a predicted cloud. Distances are in the unit of the truth.

    Attributes:
        accuracy: Mean distance from predicted points to the nearest true point.
        accuracy_median: Median of the same distances.
        completeness: Mean distance from true points to the nearest predicted point.
        completeness_median: Median of the same distances.
        normal_consistency: Mean `|cos|` of the angle between the normals of nearest points,
            averaged over both directions.
        normal_consistency_median: Median of the same, averaged over both directions.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float
    normal_consistency: float
    normal_consistency_median: float


def cloud_errors(predicted: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> CloudErrors:
    """Accuracy, completeness and normal consistency of a cloud.

    The median of an even number of values is the mean of the middle two, as in numpy.

    Args:
        predicted: The predicted cloud, aligned with the true one.
        true: The true cloud.

    Raises:
        Prob3rError: Scipy is not installed.
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
    """Distance from each point to the nearest in a cloud, and `|cos|` between their normals."""
    near = PointTree(cloud).nearest(points)
    return near.distance, (theirs[near.rows] * own).sum(dim=-1).abs()


def _middle(values: Float[Tensor, " n"]) -> float:
    return float(median(values))
