"""N9, match readout: does attention between views tell correspondences better than features do?

Every patch of view 2 that view 1 sees gets a match in view 1, read in three ways:

- `attention`: the most attended patch, of the mean of the heads of view 2's attention to view 1, in
  every block of the trunk;
- `features`: the patch with the most similar feature (cosine), at the input and at the end of every
  block of the encoder and of the trunk;
- `points`: the patch whose mean point is nearest in 3D by the probes' pointmaps, at the same places
  of the trunk, where there are probes.

Errors: the end-point error in pixels, from the middle of the found patch to the true match of the
central pixel; the same in patches; and PCK@1. The best place of a way of reading is the one with
the least median end-point error in pixels over the same pairs. Features have more places to choose
from than attention has, so that the choice favours features. The control is view 1 shuffled: the
model sees another view 1, and the matches asked for stay the same. The model needs no pointmaps.

ZeroCo (arXiv 2412.09072) reports for CroCo v2 on HPatches at 240 pixels an end-point error of 9.4
pixels by attention, 47.5 by encoder features and 44.6 by decoder features.

Rule, for medians over pairs with 95 % bootstrap intervals:

- *Attention between views tells correspondences better than features do*: the end-point error of
  the best features less that of the best attention. Supported if it is above zero by its interval,
  and the best attention is below its control by its interval; not supported if it is below zero by
  its interval; else mixed.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import central_matches, end_point_error, median, patch_grid, pck
from prob3r.measures.attention import PEAKS, peaks
from prob3r.measures.controls import SHUFFLED, require_control
from prob3r.measures.readout import by_features, by_points, pixels_off
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes import SiteReader
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import MODEL, OWN_PROBES, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTENTION, FEATURES, POINTS = WAYS = ("attention", "features", "points")
PIXELS, PATCHES, PCK = METRICS = (
    "end-point error (pixels)",
    "end-point error (patches)",
    "PCK@1",
)
_LOOKS = {
    ATTENTION: (COLOURS["cross_attn"], "attention between views"),
    FEATURES: (COLOURS["easy"], "nearest features"),
    POINTS: (COLOURS["hard"], "nearest probe points"),
}


class MatchReadout(Study):
    """N9: matches by attention, by features and by probe pointmaps, place by place."""

    name = "match_readout"
    title = "Attention tells correspondences better than features"
    place = 19
    batch = 4
    most = 128
    attention = BETWEEN

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the errors of all matches, of the model and of the control."""
        control = shuffled(pair)
        parts = [
            _rows(tested, pair, pair, MODEL),
            control.masked(_rows(tested, control.pair, pair, SHUFFLED)),
        ]
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answer to the question of N9."""
        require_control(table)
        return [_better(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the end-point error and the PCK@1 of every way of reading, place by place."""
        with figure(1, 2, PAGE, 2.6) as (drawn, axes):
            for axis, metric in zip(axes, (PIXELS, PCK), strict=True):
                _draw(axis, table, metric)
            handles, labels = axes[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=3)
        return {"readout": drawn}


def feature_sites(model: Model) -> list[Site]:
    """Return view 2's residual sites at the input and the end of blocks of encoder and trunk."""
    last, found = trunk(model).name, list[Site]()
    for name, stack in model.stacks.items():
        if stack.patches and stack.streams(2) == [1, 2]:
            found += [Site(name, 2, None, "embed"), *stack.ends(2)]
        if name == last:
            break
    return found


def _rows(tested: ModelUnderTest, shown: Pair, asked: Pair, source: str) -> pd.DataFrame:
    """Return the errors of all matches.

    Args:
        tested: The model, and its probes if there are any.
        shown: The pair that the model sees.
        asked: The pair whose true matches count.
        source: The name of the run in the table.
    """
    patch = tested.model.config.patch
    rows, columns = patch_grid(*asked.view1.size, patch)
    truth, matches = central_matches(asked.match_truth, patch), asked.patch_matches(patch)
    parts = []
    for way, site, found in _readings(tested, shown):
        values = {
            PIXELS: pixels_off(found, truth, columns, patch),
            PATCHES: end_point_error(found, matches.match, matches.visible, (rows, columns)),
            PCK: pck(found, matches.match, matches.visible, (rows, columns)),
        }
        about = {"pair": range(len(asked)), "source": source, "way": way, "site": str(site)}
        parts += [
            pd.DataFrame(about | {"metric": metric, "value": value.cpu().numpy()})
            for metric, value in values.items()
        ]
    return pd.concat(parts, ignore_index=True)


def _readings(tested: ModelUnderTest, pair: Pair) -> Iterator[tuple[str, Site, Int[Tensor, "b n"]]]:
    """Yield a way of reading, a place, and the matched patch of view 1 of every patch of view 2."""
    model, bank = tested.model, _bank(tested)
    sites, places = feature_sites(model), trunk(model).between(2)
    wanted = [str(site.of(view)) for site in sites for view in (1, 2)]
    wanted += [str(place.read("mean_peak")) for place in places]
    run: Trace = trace(model, pair, wanted, output=False, reductions=PEAKS)
    for place in places:
        yield ATTENTION, place, peaks(run, place.read("mean_peak"), 1)[:, 0]
    for site in sites:
        one, other = (run[str(site.of(view))] for view in (1, 2))
        yield FEATURES, site, by_features(other.patches, one.patches)
        if bank is not None and {str(site), str(site.of(1))} <= set(bank.sites):
            points = [bank.decode(stream).points for stream in (other, one)]
            yield POINTS, site, by_points(points[0], points[1], model.config.patch)


def _bank(tested: ModelUnderTest) -> SiteReader | None:
    return next((tested.banks[kind] for kind in OWN_PROBES if kind in tested.banks), None)


class Best(NamedTuple):
    """The best place of a way of reading, and its end-point errors in pixels, pair by pair."""

    site: str
    values: Float[Tensor, " n"]


def best_place(table: pd.DataFrame, way: str) -> Best | None:
    """Return the place with the least median end-point error; None if the way has no rows."""
    chosen = (table.source == MODEL) & (table.way == way) & (table.metric == PIXELS)
    if not chosen.any():
        return None
    sites, values = wide(table[chosen], "site")
    place = int(median(values.T).nan_to_num(torch.inf).argmin())
    return Best(sites[place], values[:, place])


def _better(table: pd.DataFrame) -> Finding:
    found = {way: best_place(table, way) for way in WAYS}
    attention, features = found[ATTENTION], found[FEATURES]
    assert attention is not None  # `check` asks for attention between views
    assert features is not None
    gap = median_interval(features.values - attention.values)
    rows = table[(table.way == ATTENTION) & (table.site == attention.site)]
    _, control = wide(rows[(rows.source == SHUFFLED) & (rows.metric == PIXELS)], "site")
    below = median_interval(control[:, 0] - attention.values)
    words = "; ".join(
        f"{_LOOKS[way][1]} {as_text(median_interval(best.values), 1, '-')} pixels at {best.site}"
        for way, best in found.items()
        if best is not None
    )
    return Finding(
        "N9",
        "Attention between views tells correspondences better than features do",
        decide(gap.low > 0 and below.low > 0, gap.high < 0),
        *gap,
        unit="pixels of end-point error, best features less best attention",
        control=f"{words}; attention with view 1 shuffled is worse by {as_text(below, 1)} pixels",
        pairs=int((~attention.values.isnan()).sum()),
    )


def _draw(axis: "Axes", table: pd.DataFrame, metric: str) -> None:
    order = list(dict.fromkeys(table[table.way == FEATURES].site))
    ends = {_place(site): i for i, site in enumerate(order)}
    for way, (colour, label) in _LOOKS.items():
        for source, style in ((MODEL, "-"), (SHUFFLED, ":")):
            chosen = (table.way == way) & (table.metric == metric) & (table.source == source)
            if not chosen.any():
                continue
            sites, values = wide(table[chosen], "site")
            x = [ends[_place(site)] for site in sites]
            words = label if source == MODEL else f"{label}, view 1 shuffled"
            band(axis, x, *medians(values), colour, words, style)
    few = range(0, len(order), max(1, len(order) // 8))
    axis.set_xticks(list(few), [_words(order[i]) for i in few], rotation=45, ha="right")
    axis.set_xlabel("end of block")
    axis.set_ylabel(metric)
    axis.set_ylim(bottom=0)


def _place(site: str) -> tuple[str, int | None]:
    parsed = Site.parse(site)
    return parsed.stack, parsed.block


def _words(site: str) -> str:
    stack, block = _place(site)
    return f"{stack} {'input' if block is None else block}"
