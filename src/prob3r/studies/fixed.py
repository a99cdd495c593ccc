"""C4, fixed correspondences: do matches that are extracted first and never changed do as well?

The classical pipeline (`classical.py`: SIFT, mutual matches by the ratio test, essential matrix by
LO-RANSAC, triangulation) runs on the same pairs as the model. Both estimate the pose of camera 2
with known intrinsics and no other truth: `classical` from its matches, `model` from its pointmap of
view 2 by PnP, also in LO-RANSAC. `shuffled` is the model with another view 1 (see
`prob3r.measures.controls`), which gives no information. `aligned` is the model's pose as other
studies measure it, by alignment with the true shape. Rooms of few pixels are unfair to keypoints.
So they are rendered again with four times the pixels along each side, only for `classical, 4x`. The
model was trained on rooms; SIFT was not trained. If LightGlue is installed, its matches go through
the same pipeline, at both sizes, as a stronger rival. The rules below are then applied to SIFT and
to LightGlue separately.

A pose is *found* with at least 15 inliers (12 by PnP). A pose that is not found counts as wrong by
180 degrees, and its triangulated points as infinitely far. A match is *right* if it is within 1/32
of view 1's longer side of the true position. The *point error* is the median distance
of points (the triangulated inliers, or the model's pointmaps at all pixels of both views) to their
true places, after scaling by the median ratio of distances to camera 1, in the pair's unit: the
mean distance of its points to camera 1.

Pairs are in strata by overlap (under 0.3, 0.3 to 0.5, over 0.5) and by texture, the mean gradient
of luma in the plainer of the two views as the model sees them, cut at the terciles of the pairs.

Rules, with 95 % bootstrap intervals over pairs; *the gap* is the share of pairs with a rotation
error under 15 degrees, the model's less that of the classical pipeline, at whichever of its
resolutions has more such pairs among all pairs:

- *Low overlap*, and likewise *low texture, defeats fixed correspondences more than the model*:
  supported if the gap in the lowest stratum has an interval above zero, and so has that gap less
  the one in the highest stratum; not supported if the first interval is at or below zero; else
  mixed.
- *Where they find a pose, fixed correspondences give the more accurate one*: on the pairs where
  that resolution finds a pose, the median difference of rotation errors, the model's less the
  classical. Supported if its interval is above zero, not supported if below, else mixed.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import (
    auc,
    median,
    norm_factor,
    percentiles,
    pose_error,
    pose_of_pointmap,
    rotation_error,
    translation_error,
)
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.statistics import as_text, interval, mean, median_interval, resampled, wide
from prob3r.reliability.classical import (
    intrinsics_of,
    point_error,
    reconstruct,
    right_matches,
    true_points,
)
from prob3r.reliability.matchers import (
    LIGHTGLUE,
    Matcher,
    greyscale,
    is_installed,
    lightglue_matches,
    sift_matches,
)
from prob3r.rooms import Rooms
from prob3r.rooms.larger import ENLARGED, larger_pairs, larger_rooms
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair
from prob3r.studies.evaluation import AUC_DEGREES
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, is_above_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WITHIN = 15  # degrees of rotation error of a pose that is right
OVERLAPS = (0.3, 0.5)
PNP_PIXELS = 2500  # enough for the pose, and much faster than all pixels

_POSE = ("rotation_error", "translation_error")
CLASSICAL, LARGER = "classical", f"classical, {ENLARGED}x"
LEARNED, LEARNED_LARGER = LIGHTGLUE, f"{LIGHTGLUE}, {ENLARGED}x"
STYLES = {
    "model": (COLOURS["all"], "-", "model"),
    LARGER: (COLOURS["classical"], "-", "classical, views 4x as large"),
    CLASSICAL: (COLOURS["classical"], "--", "classical"),
    LEARNED_LARGER: (COLOURS["hard"], "-", "LightGlue, views 4x as large"),
    LEARNED: (COLOURS["hard"], "--", "LightGlue"),
    SHUFFLED: (COLOURS["control"], ":", "model, view 1 shuffled"),
}
ROOM = (-0.04, 1.04)  # axis limits for shares, so that markers at 0 and 1 are fully visible
LABELS = {
    "overlap": "overlap (share of view 2 seen by view 1)",
    "texture": "texture (luma gradient, of 255 per pixel)",
}


class FixedCorrespondences(Study):
    """C4: the classical pipeline on the same pairs, and where the pipeline and the model fail."""

    name = "fixed-correspondences"
    title = "Where fixed correspondences fail"
    place = 8
    output = True
    most = 256

    def __init__(self) -> None:
        self.larger: Rooms | None = None

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Set up the larger views, if the pairs are small rooms."""
        self.larger = larger_rooms(pairs)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the errors of pose, points and matches, of the model and of the pipeline."""
        first, second = pair.view1.image, pair.view2.image
        points = tested.model(first, second).points
        aligned = pair.errors_of(points)
        found: dict[str, dict[str, Tensor]] = {
            "model": _of_pointmaps(points, pair),
            "aligned": {name: getattr(aligned, name) for name in _POSE},
        }
        control = shuffled(pair)
        other = _of_pointmaps(tested.model(control.pair.view1.image, second).points, pair)
        found[SHUFFLED] = {
            metric: values.double().where(control.known, torch.nan)
            for metric, values in other.items()
        }
        singles, larger = [pair[i] for i in range(len(pair))], []
        if self.larger is not None:
            larger = larger_pairs(self.larger, pair)
        rivals = [(CLASSICAL, LARGER, sift_matches)]
        if is_installed(LIGHTGLUE):
            rivals.append((LEARNED, LEARNED_LARGER, lightglue_matches))
        for source, at_larger, match in rivals:
            found[source] = _of_matches(singles, pair, match)
            if larger:
                found[at_larger] = _of_matches(larger, pair, match)
        plainer = torch.minimum(texture(pair.view1), texture(pair.view2))
        about = {"overlap": pair.overlap().cpu().numpy(), "texture": plainer.cpu().numpy()}
        return pd.concat(
            pd.DataFrame(
                {
                    "pair": range(len(pair)),
                    "source": source,
                    "metric": metric,
                    "value": values.double().cpu().numpy(),
                }
                | about
            )
            for source, by_metric in found.items()
            for metric, values in by_metric.items()
        )

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers: low overlap, low texture, and accuracy, for every rival."""
        learned = table.source.isin((LEARNED, LEARNED_LARGER))
        classical = table.source.isin((CLASSICAL, LARGER))
        rivals = [(table[~learned], "fixed correspondences")]
        if learned.any():
            rivals.append((table[~classical], "fixed correspondences of LightGlue"))
        return [
            finding
            for rows, whose in rivals
            for finding in (
                *(_low_defeats(rows, by, whose) for by in LABELS),
                _more_accurate(rows, whose),
            )
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the share of right poses by threshold and by stratum."""
        with figure(2, 2, PAGE, 2.1) as (drawn, axes):
            for axis, name in zip(axes, ("easy", "hard"), strict=False):
                _draw_recall(axis, table, name)
            for axis, by in zip(axes[2:], LABELS, strict=True):
                _draw_strata(axis, table, by)
            drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=4)
        return {"recall": drawn}


def texture(view: View) -> Float[Tensor, " b"]:
    """Return the mean length of the gradient of luma, in values of 255 per pixel."""
    down, right = torch.gradient(greyscale(view.image), dim=(1, 2))
    return torch.hypot(down, right).mean((1, 2))


def _of_pointmaps(points: tuple[Float[Tensor, "b _h _w 3"], ...], pair: Pair) -> dict[str, Tensor]:
    """Return the errors of the pose by PnP, and of the points."""
    found, off = [], []
    units = norm_factor(pair.points, pair.valid)
    for i in range(len(pair)):
        pose = pose_of_pointmap(points[1][i], intrinsics_of(pair[i].view2), PNP_PIXELS)
        found.append(None if pose is None else pose.cam_to_world)
        seen, true = (
            torch.cat([view[i][valid[i]] for view, valid in zip(views, pair.valid, strict=True)])
            for views in (points, pair.points)
        )
        off.append(point_error(seen, true, units[i]))
    return _pose_errors(found, pair) | {"point_error": torch.stack(off)}


def _of_matches(singles: Iterable[Pair], pair: Pair, match: Matcher) -> dict[str, Tensor]:
    """Return the errors of the classical pipeline.

    Args:
        singles: Each pair as the pipeline sees it.
        pair: The same pairs as a batch, with the same cameras and unit.
        match: The matcher.
    """
    found, rows = [], []
    for single, unit in zip(singles, norm_factor(pair.points, pair.valid).cpu(), strict=True):
        one = single.to("cpu")
        result = reconstruct(one, match)
        off = torch.full_like(unit, torch.inf)
        if result.pose2_to_1 is not None:
            true, known = true_points(one.view1, result.pixels1[result.inliers])
            off = point_error(result.points[known], true[known], unit.double())
        share = right_matches(result.pixels1, result.pixels2, one)
        found.append(result.pose2_to_1)
        rows.append((len(result.inliers), int(result.inliers.sum()), float(share), float(off)))
    names = ("matches", "inliers", "right matches", "point_error")
    columns = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return _pose_errors(found, pair) | dict(zip(names, columns, strict=True))


def _pose_errors(
    found: Sequence[Float[Tensor, "4 4"] | None], pair: Pair
) -> dict[str, Float[Tensor, " b"]]:
    """Return the errors of poses of camera 2 in camera 1's frame; 180 degrees if none is found.

    A short baseline has no translation error whether or not a pose is found.
    """
    true = pair.view2_to_view1
    nowhere = torch.full_like(true[0], torch.nan)
    poses = torch.stack([nowhere if pose is None else pose.to(true) for pose in found])
    depth = pair.mean_depth
    turned = rotation_error(poses[:, :3, :3], true[:, :3, :3]).nan_to_num(180.0)
    # A zero translation has no direction and is wrong by 180 degrees.
    heading = poses[:, :3, 3].nan_to_num(0.0)
    return {
        "rotation_error": turned,
        "translation_error": translation_error(heading, true[:, :3, 3], depth),
        "found": ~poses.isnan().any((1, 2)),
    }


def _values(table: pd.DataFrame, metric: str = "rotation_error") -> dict[str, Tensor]:
    """Return a metric of each source, one value for each pair."""
    sources, values = wide(table[table.metric == metric], "source")
    return dict(zip(sources, values.unbind(1), strict=True))


def _right(errors: Tensor, degrees: float | Tensor = WITHIN) -> Tensor:
    """Return 1 for a right pose, 0 for a wrong one, NaN if the error is not known."""
    return (errors < degrees).double().where(~errors.isnan(), torch.nan)


def _resolution(table: pd.DataFrame) -> str:
    """Return the source of fixed matches with more right poses."""
    errors = _values(table)
    fixed = (LARGER, CLASSICAL, LEARNED_LARGER, LEARNED)
    known = [source for source in fixed if source in errors]
    return max(known, key=lambda source: float(mean(_right(errors[source]))))


def _strata(table: pd.DataFrame, by: str) -> dict[str, Bool[Tensor, " n"]]:
    """Return which pairs are in the lowest, the middle and the highest stratum, by their names."""
    values = torch.tensor(table.groupby("pair")[by].first().to_numpy()).double()
    terciles = values.quantile(torch.tensor([1 / 3, 2 / 3], dtype=values.dtype))
    low, high = OVERLAPS if by == "overlap" else terciles.tolist()
    return {
        f"under {low:.3g}": values < low,
        f"{low:.3g} to {high:.3g}": (values >= low) & (values <= high),
        f"over {high:.3g}": values > high,
    }


def _low_defeats(table: pd.DataFrame, by: str, whose: str) -> Finding:
    errors, fixed = _values(table), _resolution(table)
    (lowest, low), _, (highest, high) = _strata(table, by).items()
    gap = _right(errors["model"]) - _right(errors[fixed])
    both = torch.stack([gap.where(mask, torch.nan) for mask in (low, high)], 1)
    (at_low, at_high), drawn = mean(both.T), resampled(both, mean)
    effect = interval(at_low, drawn[:, 0])
    wider = interval(at_low - at_high, drawn[:, 0] - drawn[:, 1])
    verdict = decide(effect.low > 0 and wider.low > 0, effect.high <= 0)
    shares = "; ".join(
        f"{source} {float(mean(right[low])):.2f} and {float(mean(right[high])):.2f}"
        for source, right in ((source, _right(errors[source])) for source in errors)
    )
    return Finding(
        "C4",
        f"Low {by} ({lowest}) defeats {whose} more than the model",
        verdict,
        *effect,
        unit=f"share of pairs within {WITHIN} degrees, model less {fixed}",
        control=f"this gap less that where it is {highest}: {as_text(wider)}; "
        f"shares {lowest} and {highest}: {shares}",
        pairs=int(low.sum()),
    )


def _more_accurate(table: pd.DataFrame, whose: str) -> Finding:
    errors, fixed = _values(table), _resolution(table)
    found, off = _values(table, "found"), _values(table, "point_error")
    asked = found[fixed] == 1
    effect = median_interval((errors["model"] - errors[fixed]).where(asked, torch.nan))
    turned, apart = (
        [float(median(values[source].where(asked, torch.nan))) for source in ("model", fixed)]
        for values in (errors, off)
    )
    shares = ", ".join(f"{source} {float(mean(of)):.2f}" for source, of in found.items())
    areas = "; ".join(
        f"{source} " + ", ".join(f"{float(auc(worst, degrees)):.2f}" for degrees in AUC_DEGREES)
        for source, worst in _worst(table).items()
    )
    return Finding(
        "C4",
        f"Where they find a pose, {whose} give the more accurate one",
        is_above_zero(effect),
        *effect,
        unit=f"degrees of rotation error, model less {fixed}",
        control=f"there rotations are wrong by {turned[0]:.2f} and {turned[1]:.2f} degrees, points "
        f"by {apart[0]:.3f} and {apart[1]:.3f} of the pair's unit; found on all pairs: {shares}; "
        f"AUC@{'/'.join(map(str, AUC_DEGREES))} of rotation and translation on all pairs: {areas}",
        pairs=int(asked.sum()),
    )


def _worst(table: pd.DataFrame) -> dict[str, Tensor]:
    """Return the larger of the rotation and translation error, of each source and pair."""
    turned, heading = _values(table), _values(table, "translation_error")
    return {source: pose_error(turned[source], heading[source]) for source in turned}


def _draw_recall(axis: "Axes", table: pd.DataFrame, stratum: str) -> None:
    """Draw the share of a stratum's pairs whose rotation error is below each threshold."""
    chosen = torch.tensor(table.groupby("pair")[stratum].first().to_numpy())
    errors, degrees = _values(table), torch.arange(46.0)
    for source in [name for name in STYLES if name in errors]:
        colour, style, label = STYLES[source]
        right = _right(errors[source][:, None], degrees).where(chosen[:, None], torch.nan)
        band(axis, degrees.tolist(), *_shares(right), colour, label, style)
    axis.axvline(WITHIN, color=COLOURS["control"], lw=0.6)
    axis.set_xlim(0, 45)
    axis.set_ylim(*ROOM)
    axis.set_xlabel(f"rotation error (degrees), {int(chosen.sum())} {stratum} pairs")
    axis.set_ylabel("share of pairs below")


def _draw_strata(axis: "Axes", table: pd.DataFrame, by: str) -> None:
    """Draw the share of right poses in each stratum."""
    strata, errors = _strata(table, by), _values(table)
    masks = torch.stack(list(strata.values()), 1)
    shown = [source for source in STYLES if source in errors]
    for place, source in enumerate(shown):
        colour, style, _ = STYLES[source]
        right = _right(errors[source][:, None]).where(masks, torch.nan)
        middle, low, high = _shares(right)
        aside = 0.12 * (place - (len(shown) - 1) / 2)
        filled = colour if style == "-" else "white"
        axis.errorbar(
            torch.arange(3) + aside,
            middle,
            torch.stack([middle - low, high - middle]),
            fmt="o",
            ms=4,
            color=colour,
            mfc=filled,
        )
    axis.set_xticks(range(3), [f"{name}\n{int(mask.sum())} pairs" for name, mask in strata.items()])
    axis.set_xlim(-0.5, 2.5)
    axis.set_ylim(*ROOM)
    axis.set_xlabel(LABELS[by])
    axis.set_ylabel(f"share within {WITHIN} degrees")


def _shares(values: Float[Tensor, "n s"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of every column, and the ends of its 95 % bootstrap interval."""
    return mean(values.T), *percentiles(resampled(values, mean))
