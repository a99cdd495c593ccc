"""The numbers that studies report: errors of pointmaps and poses, AUC, medians and intervals.

Every metric has one value for each pair. It is NaN if it cannot be measured (for instance without a
valid pixel), and infinite if the pair is a failure. Summaries leave NaN out and count infinity.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry.pointmaps import invert_rigid, mean_depth, norm_factor, transform
from prob3r.geometry.pose import (
    pose_from_pointmap,
    rotation_error,
    scale_error,
    translation_error,
)

_FEWEST_POINTS = 3  # fewest points that determine a similarity
DRAWS = 2000  # resamples for each interval
_BOOTSTRAP_ELEMENTS = 2**24  # most values drawn at once; bounds the memory


def pointmap_error(
    predicted: Float[Tensor, "b h w 3"],
    true: Float[Tensor, "b h w 3"],
    valid: Bool[Tensor, "b h w"],
) -> Float[Tensor, " b"]:
    """Mean distance over valid pixels between two pointmaps that share a unit.

    It is in the unit of the pointmaps, and NaN for a pair without a valid pixel. For the reported
    metric, normalise the predicted and the true pointmaps first, as `pose_and_shape` does.
    """
    distance = (predicted - true).masked_fill(~valid[..., None], 0).norm(dim=-1)
    total: Tensor = distance.sum(dim=(1, 2))
    return total / valid.sum(dim=(1, 2))


class PoseAndShape(NamedTuple):
    """Errors of predicted pairs of pointmaps, one value a pair.

    Lengths are in the normalised unit: the mean distance of a pair's valid points to camera 1 is
    1, in the prediction and in the truth. The pointmap error of view 2 is at most the sum of its
    pose part and its shape error.

    Attributes:
        pointmap_error1: Mean distance between predicted and true points of view 1.
        pointmap_error2: The same for view 2.
        rotation_error: Rotation error of view 2's pose, in degrees.
        translation_error: Angle between the predicted and the true direction to camera 2, in
            degrees; NaN for a short baseline.
        scale_error: `|log|` of view 2's scale relative to the truth. Both are normalised over the
            whole pair, so this compares view 2's scale with that of the pair, not with metres.
        shape_error: Mean distance between view 2's predicted points and its true points moved by
            the fitted similarity: the error that pose and scale do not explain.
        pose_part: Mean distance between view 2's true points and the same points moved by the
            fitted similarity: the error of pose and scale alone.
    """

    pointmap_error1: Float[Tensor, " b"]
    pointmap_error2: Float[Tensor, " b"]
    rotation_error: Float[Tensor, " b"]
    translation_error: Float[Tensor, " b"]
    scale_error: Float[Tensor, " b"]
    shape_error: Float[Tensor, " b"]
    pose_part: Float[Tensor, " b"]


def pose_and_shape(
    predicted1: Float[Tensor, "b h1 w1 3"],
    predicted2: Float[Tensor, "b h2 w2 3"],
    true1: Float[Tensor, "b h1 w1 3"],
    true2: Float[Tensor, "b h2 w2 3"],
    valid1: Bool[Tensor, "b h1 w1"],
    valid2: Bool[Tensor, "b h2 w2"],
    pose2_to_1: Float[Tensor, "b 4 4"],
    *,
    robust: bool = True,
    smallest_baseline: float = 0.01,
) -> PoseAndShape:
    """Split the error of a predicted pair into pose, scale and shape of view 2.

    Prediction and truth are each normalised over both views, at the pixels valid in the truth.
    Then a similarity is fitted that takes view 2's true points, in its own frame, to its predicted
    points. Its difference from the true pose is the error in pose and scale. Its residual is the
    error in shape.

    Args:
        predicted1: View 1's predicted points in camera 1's frame, in any unit.
        predicted2: View 2's predicted points in camera 1's frame, in the same unit.
        true1: View 1's true points in camera 1's frame.
        true2: View 2's true points in camera 1's frame.
        valid1: Pixels of view 1 whose true point is known.
        valid2: Pixels of view 2 whose true point is known.
        pose2_to_1: True motion from camera 2's frame to camera 1's, in the unit of the truth.
        robust: Whether the similarity is fitted by `align_robust` or by `align`.
        smallest_baseline: As a share of the mean depth of both views, each in its own frame. The
            translation error of a pair with a shorter baseline is NaN.

    Returns:
        The errors. View 2's errors of pose, scale and shape are NaN if fewer than 3 of its pixels
        are valid.
    """
    valid = (valid1, valid2)
    predicted_unit = norm_factor((predicted1, predicted2), valid)[:, None, None, None]
    true_unit = norm_factor((true1, true2), valid)[:, None, None, None]
    predicted1, predicted2 = predicted1 / predicted_unit, predicted2 / predicted_unit
    local2 = transform(true2, invert_rigid(pose2_to_1)) / true_unit
    true1, true2 = true1 / true_unit, true2 / true_unit
    true_rotation = pose2_to_1[:, :3, :3]
    true_translation = pose2_to_1[:, :3, 3] / true_unit[:, 0, 0]

    fit = pose_from_pointmap(local2, predicted2, valid2, robust)
    fitted2 = fit.apply(local2)
    depth = mean_depth((true1, local2), valid)
    determined = valid2.sum(dim=(1, 2)) >= _FEWEST_POINTS
    view2 = (
        rotation_error(fit.rotation, true_rotation),
        translation_error(
            fit.translation, true_translation, depth, smallest_baseline=smallest_baseline
        ),
        scale_error(fit.scale, torch.ones_like(fit.scale)),
        pointmap_error(predicted2, fitted2, valid2),
        pointmap_error(fitted2, true2, valid2),
    )
    return PoseAndShape(
        pointmap_error(predicted1, true1, valid1),
        pointmap_error(predicted2, true2, valid2),
        *(error.where(determined, torch.nan) for error in view2),
    )


def pose_error(
    rotation_error: Float[Tensor, "*n"], translation_error: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """The larger of the two errors, in degrees; the other one alone where one of them is NaN."""
    return torch.fmax(rotation_error, translation_error)


def auc(errors: Float[Tensor, "*b n"], threshold: int | float) -> Float[Tensor, "*b"]:
    """Area under the recall curve of errors up to a threshold, as a share of its largest value.

    The curve joins (0, 0) and the points (k-th smallest error, k / n) by straight lines. After the
    last error within the threshold it is constant. The area is exact (trapezoids).

    Args:
        errors: One for each pair. Infinite errors are failures and count in n; NaN is left out.
        threshold: In the unit of the errors, for instance 5, 10 or 20 degrees.

    Returns:
        The area, from 0 to 1; NaN if all errors are NaN.
    """
    n = (~errors.isnan()).sum(dim=-1, keepdim=True).to(errors)
    within = (errors <= threshold).sum(dim=-1, keepdim=True)
    rank = torch.arange(errors.shape[-1] + 1, device=errors.device)
    recall = torch.cat([rank.minimum(within), within], dim=-1) / n
    end = errors.new_full((*errors.shape[:-1], 1), threshold)
    errors = torch.cat([torch.zeros_like(end), errors.sort(dim=-1).values.fmin(end), end], dim=-1)
    area: Tensor = torch.trapezoid(recall, errors)
    return area / threshold


def median(values: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Median over the last axis without NaN; the mean of the middle two of an even number."""
    ordered = values.sort(dim=-1).values  # NaN last
    n = (~values.isnan()).sum(dim=-1, keepdim=True)
    middle = torch.cat([(n - 1).clamp_min(0) // 2, n // 2], dim=-1)
    return ordered.gather(-1, middle).mean(dim=-1)


class Interval(NamedTuple):
    """A statistic with its bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(
    values: Float[Tensor, "n s"],
    statistic: Callable[[Tensor], Tensor] = median,
    draws: int = DRAWS,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "draws s"]:
    """Statistic of every column over pairs drawn with replacement (Efron, 1979).

    One draw takes the same pairs for all columns, so differences between columns stay paired. A
    generator with the same seed draws the same pairs for any number of columns.

    Args:
        values: One row for each pair. NaN is passed on to the statistic.
        statistic: Reduces the last axis; works with any number of leading axes.
        draws: Number of resamples. Each resample has as many pairs as `values`.
        generator: Random generator of the resampling.
    """
    n, s = values.shape
    chunk = max(1, _BOOTSTRAP_ELEMENTS // max(1, n * s))
    parts = []
    for start in range(0, draws, chunk):
        size = (min(chunk, draws - start), n)
        index = torch.randint(n, size, generator=generator, device=generator.device)
        parts.append(statistic(values[index.to(values.device)].transpose(1, 2)))
    return torch.cat(parts)


def percentiles(
    drawn: Float[Tensor, " draws *s"], level: float = 0.95
) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
    """Ends of the interval that covers a share `level` of resampled statistics; NaN is left out.

    The ends are resampled values, without interpolation: the lower end is rounded down to the next
    value, the upper end up. Interpolation between two infinite values would give NaN.
    """
    low = drawn.nanquantile((1 - level) / 2, dim=0, interpolation="lower")
    high = drawn.nanquantile((1 + level) / 2, dim=0, interpolation="higher")
    return low, high


def bootstrap_interval(
    values: Float[Tensor, " n"],
    statistic: Callable[[Tensor], Tensor] = median,
    level: float = 0.95,
    draws: int = DRAWS,
    *,
    generator: torch.Generator,
) -> Interval:
    """Percentile bootstrap interval of a statistic over pairs.

    Args:
        values: One for each pair. NaN (a pair that was not measured) is left out. For the effect
            of a change, give the differences pair by pair.
        statistic: As for `bootstrap`.
        level: Share of the resampled statistics that the interval covers.
        draws: As for `bootstrap`.
        generator: Random generator of the resampling.

    Returns:
        The statistic of all values and the ends of the interval; all are NaN if no value is left.
    """
    values = values[~values.isnan()]
    if not len(values):
        return Interval(torch.nan, torch.nan, torch.nan)
    drawn = bootstrap(values[:, None], statistic, draws, generator=generator)[:, 0]
    low, high = percentiles(drawn, level)
    return Interval(statistic(values).item(), low.item(), high.item())
