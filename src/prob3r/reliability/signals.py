"""Signals: numbers from one run of a model that help to predict, without truth, if it is wrong.

*Late* means the second half of the trunk's blocks. Attention means attention between the views.
Pointmaps are in the pair's own unit, the mean distance of the points of both views to camera 1, so
no signal depends on the scale of a prediction. Cameras are estimated from the output; the true
cameras are not used.
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
    finite,
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
from prob3r.measures.numbers import percent
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes import SiteReader
from prob3r.runs.edits import Setting
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.views import Pair

SURFACE = 0.1
"""Largest relative difference in depth at which two predicted points are on the same surface."""

PNP_PIXELS = 1024  # approximate largest number of pixels that PnP uses
_SMALLEST = 1e-3  # smaller values are replaced by it before the logarithm

Points = tuple[Float[Tensor, "b _h _w 3"], ...]


def _number(value: float) -> str:
    return f"{value:.2f}"


def _degrees(value: float) -> str:
    return f"{value:.0f}°"


def _count(value: float) -> str:
    return f"{value:.0f}"


class Signal(NamedTuple):
    """The description of a signal.

    Attributes:
        words: Its name in sentences and figures.
        group: `confidence` and `output` need the output only, `inside` needs activations of the
            model, and `check` needs matches that are found without the model.
        doubt: 1 if high values suggest a wrong output, -1 if low values do.
        write: Formats a value as text.
        logarithmic: Whether the logarithm of the value is used.
    """

    words: str
    group: Literal["confidence", "output", "inside", "check"]
    doubt: Literal[1, -1]
    write: Callable[[float], str]
    logarithmic: bool = False


SIGNALS: Mapping[str, Signal] = {
    "confidence1": Signal("confidence in view 1", "confidence", -1, _number, True),
    "confidence2": Signal("confidence in view 2", "confidence", -1, _number, True),
    "inliers": Signal("share that one camera explains", "output", -1, percent),
    "overlap": Signal("overlap by the output", "output", -1, percent),
    "probe_gap": Signal("late probes' distance from the output", "inside", 1, _number, True),
    "late_turn": Signal("late turns of view 2", "inside", 1, _degrees, True),
    "cycle": Signal("late attention's cycle consistency", "inside", -1, percent),
    "agreement": Signal("late attention's fit to the output", "inside", -1, percent),
    "entropy": Signal("late attention's entropy", "inside", 1, percent),
}
"""All signals of a run by name; `read_signals` defines them."""

CHECK_SIGNALS: Mapping[str, Signal] = {
    "check_turn": Signal("difference from the matches' rotation", "check", 1, _degrees, True),
    "check_inliers": Signal("matches that agree on a pose", "check", -1, _count, True),
}
"""All signals of the independent check by name; `check.signals_of` defines them."""

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
"""Groups of signals of a run that are fitted together."""

CHECK, WITH_CHECK = "check", "all and check"
CHECK_GROUPS: Mapping[str, tuple[str, ...]] = {
    CHECK: tuple(CHECK_SIGNALS),
    "confidence and check": GROUPS["confidence"] + tuple(CHECK_SIGNALS),
    WITH_CHECK: tuple(EVERY_SIGNAL),
}
"""Groups of signals with those of the independent check."""


def read_signals(
    model: Model, pair: Pair, bank: SiteReader, run: Trace | None = None
) -> tuple[dict[str, Float[Tensor, " b"]], Prediction]:
    """Return the signals of every pair of a batch, by name, and the output of the model.

    - `confidence1`, `confidence2`: geometric mean of the confidence of a view.
    - `inliers`: share of PnP inliers in view 2. PnP uses about `PNP_PIXELS` pixels of view 2's
      pointmap and the focal length of view 1's pointmap. An inlier has a reprojection error of at
      most 3 pixels.
    - `overlap`: share of view 2's patches that view 1 sees, according to the output's pointmaps.
    - `probe_gap`: mean distance between view 2's pointmap decoded by a late probe and that of the
      output, mean over late probes.
    - `late_turn`: rotation of view 2's pointmap from each late probe to the next one, and from the
      last one to the output, by the angles of the fitted similarities; sum of the angles in
      degrees.
    - `cycle`: cycle consistency of late attention: the share of view 2's patches that return to
      within one patch of their start by the most attended patch in view 1 and back (mean of heads,
      mean over late blocks).
    - `agreement`: share of view 2's patches whose most attended patch (mean of heads) is within one
      patch of the match by the output's pointmaps, mean over late blocks. A patch that view 1 does
      not see, according to the output, does not agree.
    - `entropy`: entropy of late attention as a share of the largest possible entropy, mean over
      heads, queries, blocks and both views.

    Args:
        model: The model.
        pair: The pairs.
        bank: The probes.
        run: A run over these pairs that recorded `signal_sites`. Without it, the model runs here.

    Raises:
        Prob3rError: The bank has no probes for any late site of both views.
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
    """Return the sites that `read_signals` needs from a run with the reductions `attention.PEAKS`.

    Raises:
        Prob3rError: The bank has no probes for any late site of both views.
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
    """Return the late sites that have probes in both views."""
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
    """Return the columns of a fit: signals with a sign such that high values mean doubt.

    The logarithm of a logarithmic signal is taken.

    Args:
        signals: Values by the names of the signals.
        names: Names of the signals to use, in the order of the columns.
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
    """Return both pointmaps in the pair's own unit."""
    first, second = normalise(points, [finite(p) for p in points])
    return first, second


def _distance(
    one: Float[Tensor, "b h w 3"], other: Float[Tensor, "b h w 3"]
) -> Float[Tensor, " b"]:
    return (one - other).norm(dim=-1).mean((1, 2))


def _turning(points: list[Float[Tensor, "b h w 3"]]) -> Float[Tensor, " b"]:
    """Return the sum of the angles between successive pointmaps, in degrees."""
    flat = [p.flatten(1, 2) for p in points]
    turns = [align(a, b).rotation for a, b in pairwise(flat)]
    return torch.stack([rotation_angle(turn) for turn in turns]).sum(0)


def _seen(output: Prediction, focal: Float[Tensor, " b"], patch: int) -> PatchMatches:
    """Return where view 2's patches lie in view 1, according to the output's pointmaps."""
    first, second = output.points
    finite1, finite2 = (finite(points) for points in (first, second))
    matrix = central_intrinsics(focal, (first.shape[1], first.shape[2]))
    return patch_matches(
        MatchTruth(second, finite2, first[..., 2], finite1, matrix), patch, SURFACE
    )


def _inliers(points2: Float[Tensor, "b h w 3"], focal: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the share of PnP inliers in view 2; 0 if PnP finds no camera."""
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
