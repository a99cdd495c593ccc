"""Signals: what one run of a model says, without any truth, about whether its outcome is right.

*Late* is the second half of the trunk's blocks; attention is that between the views. Pointmaps are
in the pair's own unit, the mean distance of both views to camera 1, so that no signal depends on
the scale of a prediction. Cameras are read off the output, too: what is known of the true ones is
not used.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from math import log
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    MatchTruth,
    PatchMatches,
    align,
    central_intrinsics,
    cycle_consistency,
    focal_from_pointmap,
    normalise,
    patch_grid,
    patch_matches,
    pck,
    pose_of_pointmap,
    rotation_angle,
)
from prob3r.measures.attention import PEAKS, patch_queries, peaks
from prob3r.measures.errors import twins
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes import SiteReader
from prob3r.runs.edits import Setting
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.views import Pair

SURFACE = 0.1
"""Relative difference in depth up to which the output's pointmaps show one surface twice."""

PNP_PIXELS = 1024
_SMALLEST = 1e-3  # of what a logarithm is taken of

Points = tuple[Float[Tensor, "b _h _w 3"], ...]


def _number(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _degrees(value: float) -> str:
    return f"{value:.0f}°"


def _count(value: float) -> str:
    return f"{value:.0f}"


class Signal(NamedTuple):
    """What is to be known of a signal.

    Attributes:
        words: Its name in a sentence and in a figure.
        group: `confidence` and `output` can be read off the output alone, `inside` cannot, and
            `check` comes from matches that are found without the model.
        doubt: 1 if a high value speaks for a wrong outcome, -1 if a low one does.
        write: Puts a value into words.
        logarithmic: Whether ratios of values count, rather than differences.
    """

    words: str
    group: Literal["confidence", "output", "inside", "check"]
    doubt: Literal[1, -1]
    write: Callable[[float], str]
    logarithmic: bool = False


SIGNALS: Mapping[str, Signal] = {
    "confidence1": Signal("confidence in view 1", "confidence", -1, _number, True),
    "confidence2": Signal("confidence in view 2", "confidence", -1, _number, True),
    "inliers": Signal("share that one camera explains", "output", -1, _percent),
    "overlap": Signal("overlap by the output", "output", -1, _percent),
    "probe_gap": Signal("late probes' distance from the output", "inside", 1, _number, True),
    "late_turn": Signal("late turns of view 2", "inside", 1, _degrees, True),
    "cycle": Signal("late attention's cycle consistency", "inside", -1, _percent),
    "agreement": Signal("late attention's fit to the output", "inside", -1, _percent),
    "entropy": Signal("late attention's entropy", "inside", 1, _percent),
}
"""Every signal of a run by its name; `read_signals` defines them."""

CHECK_SIGNALS: Mapping[str, Signal] = {
    "check_turn": Signal("difference from the matches' rotation", "check", 1, _degrees, True),
    "check_inliers": Signal("matches that agree on a pose", "check", -1, _count, True),
}
"""Every signal of the independent check; `check.signals_of` defines them."""

EVERY_SIGNAL: Mapping[str, Signal] = {**SIGNALS, **CHECK_SIGNALS}

GROUPS: Mapping[str, tuple[str, ...]] = {
    group: tuple(name for name, signal in SIGNALS.items() if signal.group in members)
    for group, members in {
        "confidence": ("confidence",),
        "output": ("confidence", "output"),
        "inside": ("inside",),
        "all": ("confidence", "output", "inside"),
    }.items()
}
"""The names of the signals of a run that are combined, by what they can be read off."""

CHECK, WITH_CHECK = "check", "all and check"
CHECK_GROUPS: Mapping[str, tuple[str, ...]] = {
    CHECK: tuple(CHECK_SIGNALS),
    "confidence and check": GROUPS["confidence"] + tuple(CHECK_SIGNALS),
    WITH_CHECK: tuple(EVERY_SIGNAL),
}
"""The same for combinations with the independent check."""


def read_signals(
    model: Model, pair: Pair, bank: SiteReader, run: Trace | None = None
) -> tuple[dict[str, Float[Tensor, " b"]], Prediction]:
    """Return the signals of every pair of a batch, by name, and the output that they are about.

    - `confidence1`, `confidence2`: geometric mean of a view's confidence.
    - `inliers`: share of (at most `PNP_PIXELS`) pixels of view 2 whose point one camera, found by
      PnP with the focal length of view 1's pointmap, sees within 3 pixels of where it should be.
    - `overlap`: share of view 2's patches that view 1 sees, by the output's pointmaps.
    - `probe_gap`: mean distance of view 2's pointmap by a late probe to the output's.
    - `late_turn`: the angles of the similarities that take view 2's pointmap by one late probe onto
      the next one's, and the last onto the output's, added up, in degrees.
    - `cycle`: share of view 2's patches that come back to within one patch by the most attended
      patches of view 1 and of view 2 (mean of heads), mean over late blocks.
    - `agreement`: share of view 2's patches whose most attended patch (mean of heads) is within one
      of where the output's pointmaps put them, mean over late blocks; those that view 1 does not
      see by the output don't agree.
    - `entropy`: mean entropy of late attention between the views, over heads and both views, as a
      share of the most there can be.

    Args:
        model: The model.
        pair: The pairs.
        bank: The probes.
        run: Of these pairs, with `signal_sites` recorded; the model runs if it is not given.

    Raises:
        Prob3rError: The probes read no late site of both views.
    """
    patch, sites = model.config.patch, _late_twins(model, bank)
    if run is None:
        run = trace(model, pair, signal_sites(model, bank), reductions=PEAKS)
    assert run.output is not None
    confidence = [values.log().mean((1, 2)).exp() for values in run.output.confidence]
    states = [_united((bank.decode(run[a]).points, bank.decode(run[b]).points)) for a, b in sites]
    final = _united(run.output.points)
    focal = focal_from_pointmap(run.output.points[0], run.output.confidence[0])
    seen = _seen(run.output, focal, patch)
    cycle, agreement, entropy = _attention(run, model, pair, seen)
    found = {
        "confidence1": confidence[0],
        "confidence2": confidence[1],
        "inliers": _inliers(run.output.points[1], focal),
        "overlap": seen.visible.float().mean(1),
        "probe_gap": torch.stack([_distance(both[1], final[1]) for both in states]).mean(0),
        "late_turn": _turning([both[1] for both in (*states, final)]),
        "cycle": cycle,
        "agreement": agreement,
        "entropy": entropy,
    }
    return found, run.output


def signal_sites(model: Model, bank: SiteReader) -> list[str]:
    """Return what `read_signals` needs of a run, made with the reductions `attention.PEAKS`.

    Raises:
        Prob3rError: The probes read no late site of both views.
    """
    both = [site for twin in _late_twins(model, bank) for site in twin]
    late = [place.of(view) for place in _late_attention(model) for view in (1, 2)]
    return both + [str(site.read(name)) for site in late for name in ("mean_peak", "entropy")]


def _late(model: Model) -> range:
    depth = trunk(model).blocks
    return range(depth // 2, depth)


def _late_attention(model: Model) -> list[Site]:
    """Return view 1's late attention to view 2, block by block."""
    return [site for site in trunk(model).between(1) if site.block in _late(model)]


def _late_twins(model: Model, bank: SiteReader) -> list[tuple[str, str]]:
    """Return the late sites of both views that the probes read."""
    late, stack = _late(model), trunk(model).name
    places = [(both, Site.parse(both[1])) for both in twins(bank.sites)]
    sites = [both for both, site in places if site.stack == stack and site.block in late]
    if not sites:
        raise Prob3rError(
            "These probes read no site of both views in the second half of the model's blocks, "
            "where signs of a wrong outcome are looked for; give probes of all sites."
        )
    return sites


def features(
    signals: Mapping[str, Float[Tensor, " n"]], names: Iterable[str] = SIGNALS
) -> Float[Tensor, "n s"]:
    """Return signals, in the order of their names, such that a high value means doubt.

    Where ratios of a signal's values count, its logarithm is taken.
    """
    columns = []
    for name in names:
        signal = EVERY_SIGNAL[name]
        values = signals[name].double()
        if signal.logarithmic:
            values = values.clamp_min(_SMALLEST).log()
        columns.append(signal.doubt * values)
    return torch.stack(columns, 1)


def _united(points: Points) -> Points:
    """Return both pointmaps in the pair's unit."""
    first, second = normalise(points, [p.isfinite().all(-1) for p in points])
    return first, second


def _distance(
    one: Float[Tensor, "b h w 3"], other: Float[Tensor, "b h w 3"]
) -> Float[Tensor, " b"]:
    return (one - other).norm(dim=-1).mean((1, 2))


def _turning(points: list[Float[Tensor, "b h w 3"]]) -> Float[Tensor, " b"]:
    """Return the angles between successive pointmaps, added up, in degrees."""
    flat = [p.flatten(1, 2) for p in points]
    turns = [align(a, b).rotation for a, b in pairwise(flat)]
    return torch.stack([rotation_angle(turn) for turn in turns]).sum(0)


def _seen(output: Prediction, focal: Float[Tensor, " b"], patch: int) -> PatchMatches:
    """Return where view 2's patches lie in view 1, by the output's own pointmaps."""
    first, second = output.points
    finite1, finite2 = (points.isfinite().all(-1) for points in (first, second))
    matrix = central_intrinsics(focal, (first.shape[1], first.shape[2]))
    return patch_matches(
        MatchTruth(second, finite2, first[..., 2], finite1, matrix), patch, SURFACE
    )


def _inliers(points2: Float[Tensor, "b h w 3"], focal: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the share of view 2's pixels that one camera explains; 0 if PnP finds none."""
    shares = []
    intrinsics = central_intrinsics(focal, (points2.shape[1], points2.shape[2]))
    for points, matrix in zip(points2, intrinsics, strict=True):
        found = pose_of_pointmap(points, matrix, PNP_PIXELS)
        shares.append(0.0 if found is None else found.share)
    return torch.tensor(shares).to(points2)


def _attention(
    run: Trace, model: Model, pair: Pair, seen: PatchMatches
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the cycle consistency, the agreement and the entropy of late attention."""
    setting, patch = Setting.of(model, pair), model.config.patch
    grid1, grid2 = (patch_grid(*view.size, patch) for view in (pair.view1, pair.view2))
    share = seen.visible.float().mean(1)
    cycles, agreements, entropies = [], [], []
    for place in _late_attention(model):
        there = peaks(run, place.of(2).read("mean_peak"), 1)[:, 0]
        back = peaks(run, place.read("mean_peak"), 2)[:, 0]
        cycles.append(cycle_consistency(there, back, grid2))
        near = pck(there, seen.match, seen.visible, grid1)
        agreements.append(near.nan_to_num(0) * share)
        for site in (place, place.of(2)):
            entropy = patch_queries(run, site.read("entropy")).mean((1, 2))
            entropies.append(entropy / log(max(len(setting.keys(site)), 2)))
    cycle, agreement, entropy = (
        torch.stack(values).mean(0) for values in (cycles, agreements, entropies)
    )
    return cycle, agreement, entropy
