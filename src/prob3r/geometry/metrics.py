"""The numbers that studies report: errors of pointmaps, of attention as matching, and intervals.

Every metric has one value for each pair. It is NaN if it cannot be measured (no valid pixel, no
visible patch), and infinite if the pair is a failure. Summaries leave NaN out and count infinity.
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

_FEWEST_POINTS = 3  # that determine a similarity
DRAWS = 2000  # resamples behind every interval
_BOOTSTRAP_ELEMENTS = 2**24  # values drawn at once, which bounds the memory


def pointmap_error(
    predicted: Float[Tensor, "b h w 3"],
    true: Float[Tensor, "b h w 3"],
    valid: Bool[Tensor, "b h w"],
) -> Float[Tensor, " b"]:
    """Mean distance over valid pixels between two pointmaps that share a unit.

    For the reported metric, normalise both pairs of pointmaps first, as `pose_and_shape` does.
    """
    distance = (predicted - true).masked_fill(~valid[..., None], 0).norm(dim=-1)
    total: Tensor = distance.sum(dim=(1, 2))
    return total / valid.sum(dim=(1, 2))


class PoseAndShape(NamedTuple):
    """What a predicted pair of pointmaps gets wrong, pair by pair.

    Lengths are in the normalised unit: the mean distance of a pair's valid points to camera 1 is
    1, in the prediction and in the truth alike. The pointmap error of view 2 is never more than
    its pose part and its shape error together.

    Attributes:
        pointmap_error1: Mean distance of view 1's points to the truth.
        pointmap_error2: The same for view 2.
        rotation_error: Of view 2's pose, in degrees.
        translation_error: Of the direction to camera 2, in degrees; NaN for a short baseline.
        scale_error: `|log|` of view 2's scale relative to the truth, after the pair's joint
            normalisation: it compares view 2 with the pair, not with metres.
        shape_error: Mean distance of view 2's predicted points to its true points moved by
            the fitted similarity, that is, what no pose and scale explains.
        pose_part: Mean distance of view 2's true points to the same points moved by the fitted
            similarity, that is, what pose and scale alone do.
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
    Then the similarity from view 2's true points in its own frame to its predicted points is
    fitted: its deviation from the true pose is the error in pose and scale, and its residual is
    the error in shape.

    Args:
        predicted1: View 1's predicted points in camera 1's frame, in any unit.
        predicted2: View 2's predicted points in camera 1's frame, in the same unit.
        true1: View 1's true points in camera 1's frame.
        true2: View 2's true points in camera 1's frame.
        valid1: Pixels of view 1 whose true point is known.
        valid2: Pixels of view 2 whose true point is known.
        pose2_to_1: True motion from camera 2's frame to camera 1's, in the unit of the truth.
        robust: Whether the similarity is fitted by `align_robust`, or by `align`.
        smallest_baseline: As a share of the mean depth of both views, each in its own frame;
            below it the translation error is NaN.

    Returns:
        The errors. View 2's pose, scale and shape are NaN with fewer than 3 valid pixels in it.
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
    """The larger of the two, in degrees, or the rotation error alone where the other is NaN."""
    return torch.fmax(rotation_error, translation_error)


def auc(errors: Float[Tensor, "*b n"], threshold: int | float) -> Float[Tensor, "*b"]:
    """Area under the recall curve of errors up to a threshold, as a share of its largest value.

    The curve joins (0, 0) and the points (k-th smallest error, k / n) by straight lines and stays
    level from the last error within the threshold on; the area under it is exact (trapezoids).

    Args:
        errors: One for each pair. Infinite ones are failures and count; NaN are left out.
        threshold: In the unit of the errors, for instance 5, 10 or 20 degrees.

    Returns:
        From 0 to 1; NaN without any error that counts.
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
    """Median over the last axis, NaN left out; of an even number, the mean of the middle two."""
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

    All columns share a draw's pairs, so that differences between columns keep their pairing. The
    same generator draws the same pairs for any number of columns.

    Args:
        values: One row a pair; NaN is left to the statistic.
        statistic: Reduces the last axis and works on any number of leading ones.
        draws: Number of resamples, each of as many pairs as there are.
        generator: Of the resampling.
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
    """Ends of the interval that covers a share of resampled statistics; NaN is left out.

    They are order statistics, the nearest ones outside the interval. Interpolation between two
    infinite failures would give NaN.
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
        values: One for each pair; NaN, which is a pair not measured, is left out. For the effect
            of a change, give the differences pair by pair.
        statistic: As for `bootstrap`.
        level: Share of the resampled statistics that the interval covers.
        draws: As for `bootstrap`.
        generator: Of the resampling.

    Returns:
        The statistic of all values and the interval's ends; all NaN where no value is left.
    """
    values = values[~values.isnan()]
    if not len(values):
        return Interval(torch.nan, torch.nan, torch.nan)
    drawn = bootstrap(values[:, None], statistic, draws, generator=generator)[:, 0]
    low, high = percentiles(drawn, level)
    return Interval(statistic(values).item(), low.item(), high.item())
