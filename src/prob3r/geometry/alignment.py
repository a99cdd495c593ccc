"""Similarities between point sets: by weighted least squares, and by a robust variant."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ROUNDING = 100  # units in the last place by which rounding may separate equal points


class Similarity(NamedTuple):
    """The maps `x -> scale * rotation @ x + translation` of a batch."""

    scale: Float[Tensor, " b"]
    rotation: Float[Tensor, "b 3 3"]
    translation: Float[Tensor, "b 3"]

    def apply(self, points: Float[Tensor, "b *n 3"]) -> Float[Tensor, "b *n 3"]:
        """Points mapped by the similarities."""
        flat = points.reshape(points.shape[0], -1, 3)
        moved = flat @ (self.scale[:, None, None] * self.rotation).mT + self.translation[:, None]
        return moved.reshape(points.shape)

    def inverse(self) -> "Similarity":
        """The inverse maps."""
        scale, rotation = 1 / self.scale, self.rotation.mT
        moved = torch.einsum("bij,bj->bi", rotation, self.translation)
        return Similarity(scale, rotation, -scale[:, None] * moved)

    def matrix(self) -> Float[Tensor, "b 4 4"]:
        """The maps as 4x4 matrices for homogeneous points."""
        matrix = torch.eye(4, dtype=self.scale.dtype, device=self.scale.device)
        matrix = matrix.repeat(self.scale.shape[0], 1, 1)
        matrix[:, :3, :3] = self.scale[:, None, None] * self.rotation
        matrix[:, :3, 3] = self.translation
        return matrix


def align(
    source: Float[Tensor, "b n 3"],
    target: Float[Tensor, "b n 3"],
    weights: Float[Tensor, "b n"] | None = None,
    scale: bool = True,
) -> Similarity:
    """The similarity of `source` onto `target` with the least weighted sum of squared distances.

    The closed form of Umeyama (PAMI 1991, equations 40 to 42), differentiable in the points and
    the weights. The result is finite for every finite input:

    - Points of zero weight have no influence, even if they are not finite.
    - If all weights are zero, the map is the identity.
    - If all source points coincide, the rotation is the identity and the scale is 1.
    - If all target points coincide, the rotation is the identity and the scale is a tiny positive
      number.
    - If the points are collinear, the rotation about their line is not determined. One of the
      optimal rotations is returned.

    Args:
        source: Points to map.
        target: Where each of these points should be after the map.
        weights: Weights of the points, not negative; all equal by default.
        scale: Whether to fit the scale. If not, it is 1 and the map is rigid.
    """
    if weights is None:
        weights = torch.ones_like(source[..., 0])
    return _umeyama(_columns(source, target, weights), weights, scale)[0]


def align_robust(
    source: Float[Tensor, "b n 3"],
    target: Float[Tensor, "b n 3"],
    weights: Float[Tensor, "b n"] | None = None,
    scale: bool = True,
    *,
    iterations: int = 20,
) -> Similarity:
    """As `align`, but a minority of grossly wrong points does not change the result.

    Iteratively reweighted least squares with the Geman-McClure weight `(c^2 / (c^2 + r^2))^2` of
    the residual length `r`. Its scale `c` is the median residual of the points of positive weight,
    computed again in every iteration. So the fit tolerates large residuals at first, and only
    smaller ones later. Gradients flow through the last fit, with its weights held constant.

    Args:
        source: As in `align`.
        target: As in `align`.
        weights: As in `align`; they multiply the robust weights. The median does not depend on
            their values: it is taken over all points of positive weight.
        scale: As in `align`.
        iterations: Number of fits after the first one, which is not robust.
    """
    if weights is None:
        weights = torch.ones_like(source[..., 0])
    points = _columns(source, target, weights)
    robust = weights
    with torch.no_grad():
        # Smaller residuals are rounding errors and must not decide the weights.
        size = points[:, 3:].abs().amax(dim=(1, 2))[:, None]
        rounding = _ROUNDING * torch.finfo(size.dtype).eps * size
        rounding = rounding.clamp_min(torch.finfo(size.dtype).tiny ** 0.25)
        back = -torch.eye(3, dtype=size.dtype, device=size.device).expand(len(size), 3, 3)
        for _ in range(iterations):
            fit, centred = _umeyama(points, robust, scale)
            onto = fit.scale[:, None, None] * fit.rotation
            squared = (torch.cat((onto, back), dim=2) @ centred).square_().sum(dim=1)
            spread = torch.fmax(_median_of(squared, weights > 0), rounding.square())
            robust = weights / squared.div_(spread).add_(1).square_()
    return _umeyama(points, robust, scale)[0]


def _median_of(values: Float[Tensor, "b n"], counts: Bool[Tensor, "b n"]) -> Float[Tensor, "b 1"]:
    """Return the lower median of those values of each row that count; NaN if none does."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.masked_fill(~counts, torch.nan).nanmedian(dim=-1, keepdim=True).values
    # On a processor numpy's selection is ten times as fast as torch's.
    rows = zip(values.numpy(), counts.numpy(), strict=True)
    return values.new_tensor([[_lower_median(row[counted])] for row, counted in rows])


def _lower_median(values: "np.ndarray[Any, Any]") -> float:
    place = (len(values) - 1) // 2
    return float(np.partition(values, place)[place]) if len(values) else np.nan


def _columns(
    source: Float[Tensor, "b n 3"], target: Float[Tensor, "b n 3"], weights: Float[Tensor, "b n"]
) -> Float[Tensor, "b 6 n"]:
    """Coordinates of source and target, one axis a row: sums and products run over its points.

    Points of zero weight become zeros, because NaN times zero is NaN.
    """
    columns = torch.cat((source.mT, target.mT), dim=1)
    return columns.masked_fill((weights <= 0)[:, None], 0)


def _umeyama(
    points: Float[Tensor, "b 6 n"], weights: Float[Tensor, "b n"], scale: bool
) -> tuple[Similarity, Float[Tensor, "b 6 n"]]:
    """The fit of `align`, for points that are finite wherever their weight is zero.

    Returns:
        The fit, and the points relative to their weighted means.
    """
    import roma  # imported here, so that all other code runs without roma

    tiny, eps = torch.finfo(points.dtype).tiny, torch.finfo(points.dtype).eps
    weights = (weights / weights.sum(dim=-1, keepdim=True).clamp_min(tiny))[:, None]
    means = (points @ weights.mT)[..., 0]
    centred = points - means[..., None]
    moments = centred @ (weights * centred[:, :3]).mT
    variance, covariance = moments[:, :3].diagonal(dim1=1, dim2=2).sum(dim=-1), moments[:, 3:]
    source_mean, target_mean = means.split(3, dim=1)

    # If all points coincide, their differences from the mean are rounding and must not be fitted.
    source_noise = _ROUNDING * eps * source_mean.detach().norm(dim=-1)
    target_noise = _ROUNDING * eps * target_mean.detach().norm(dim=-1)
    spread, size = variance.detach().sqrt(), covariance.detach().norm(dim=(-2, -1))
    apart = ~(spread <= source_noise)
    related = apart & ~(size <= spread * target_noise)
    covariance = covariance.where(related[:, None, None], 0)

    # Only the direction of the covariance matters. It is scaled to unit norm, so that roma's
    # damping of the gradient does not depend on the unit of the points.
    rotation = roma.special_procrustes(covariance / size.clamp_min(tiny)[:, None, None])
    factor = torch.ones_like(variance)
    if scale:
        fitted = (rotation * covariance).sum(dim=(-2, -1)) / variance.clamp_min(tiny)
        factor = fitted.clamp_min(eps).where(apart, 1)
    moved = factor[:, None] * torch.einsum("bij,bj->bi", rotation, source_mean)
    return Similarity(factor, rotation, target_mean - moved), centred
