"""C4, correspondence: does cross-attention match patches, and does geometry rest on it?

View 2's attention to view 1 (cross-attention, or the global attention of other models) is read as
matching, by PCK@1. A *correspondence head*, and its control with view 1 shuffled, are defined in
`prob3r.measures.heads`. The nearest neighbours of features (by cosine) and of the probes' points
(in 3D) are read as matching in the same way, at every site.

To test whether geometry rests on the matches, the attention to view 1 of one block (of all heads,
at the co-visible patches) is replaced by the true matches (`oracle`) or by the matches of other
patches (`scrambled`), and the model continues from there.

Rules, for medians over pairs with 95 % bootstrap intervals:

- *Cross-attention aligns matching patches*: supported if there are correspondence heads in at
  least half of the blocks; not supported if there is none; else mixed.
- *Matches and geometry are refined together*: over the blocks of a pair, the change of PCK@1 (mean
  of heads) is correlated with the fall of the pointmap error. Supported if this correlation is
  above that with another pair's falls, the interval of the difference excluding zero; not
  supported if the interval is below zero; else mixed.
- *Geometry rests on the matches*: supported if scrambled matches in the most sensitive block raise
  the rotation error more than oracle matches do there, the interval of the difference excluding
  zero; not supported if no block has such an interval; mixed if oracle matches raise it, too.
"""

from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PatchMatches, median, patch_grid, pck
from prob3r.measures.attention import PEAKS
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.curves import block_ends
from prob3r.measures.errors import site_errors, twins
from prob3r.measures.heads import (
    MEAN,
    correspondence_heads,
    head_matches,
    head_table,
    match_sites,
)
from prob3r.measures.readout import by_features, by_points
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.measures.steps import between_views
from prob3r.models.protocol import trunk
from prob3r.runs.edits import Attention, Edit
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, PAGE, band, block_axis, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, is_above_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Correspondence(Study):
    """C4: matches of heads, features and probes, block by block, and what depends on them."""

    name = "correspondence"
    title = "Geometry rests on correspondences"
    place = 5
    output = True
    probes = True
    attention = BETWEEN

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the matches of every head and site, and the effects of replaced matches."""
        model, bank = tested.model, tested.bank()
        patch, sites = model.config.patch, match_sites(model)
        matches = pair.patch_matches(patch)
        run = trace(model, pair, [*sites, *bank.sites], output=False, reductions=PEAKS)
        points = {site: bank.decode(run[site]).points for site in bank.sites}
        errors = site_errors(points, pair)
        parts = [
            head_table(run, model, pair, matches, "model"),
            _neighbours(run, points, pair, matches, patch),
            errors[(errors.view == 2) & (errors.metric == "pointmap_error")].assign(source="model"),
            _interventions(tested, pair, matches),
        ]
        control = shuffled(pair)
        other = trace(model, control.pair, sites, output=False, reductions=PEAKS)
        parts.append(control.masked(head_table(other, model, pair, matches, SHUFFLED)))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the three questions of C4."""
        return [_aligned(table), _together(table), _rests(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return match accuracy by block and site, and the effect of replaced matches."""
        with figure(1, 3, PAGE, 2.4) as (drawn, axes):
            _draw_heads(axes[0], table)
            _draw_neighbours(axes[1], table)
            _draw_interventions(axes[2], table)
        return {"matches": drawn}


def _neighbours(
    run: Trace, points: dict[str, Tensor], pair: Pair, matches: PatchMatches, patch: int
) -> pd.DataFrame:
    """Return the PCK@1 of nearest neighbours of features, and of points in 3D, at every site."""
    grid1 = patch_grid(*pair.view1.size, patch)
    parts = []
    for first, second in twins(points):
        nearest = {
            "features": by_features(run[second].patches, run[first].patches),
            "points": by_points(points[second], points[first], patch),
        }
        for what, found in nearest.items():
            values = pck(found, matches.match, matches.visible, grid1).cpu().numpy()
            rows = {"pair": range(len(pair)), "site": second, "metric": f"pck@1 of {what}"}
            parts.append(pd.DataFrame(rows | {"source": "model", "value": values}))
    return pd.concat(parts, ignore_index=True)


def _interventions(tested: ModelUnderTest, pair: Pair, matches: PatchMatches) -> pd.DataFrame:
    """Return the effect on view 2 of true and scrambled matches in each block's attention."""
    rows, columns = patch_grid(*pair.view1.size, tested.model.config.patch)
    keys = rows * columns
    generator = torch.Generator().manual_seed(0)
    variants: dict[tuple[str, int], list[Edit]] = {}
    for place in trunk(tested.model).between(2):
        assert place.block is not None  # attention is that of a block
        scrambled = Attention.scrambled(str(place), matches, keys, generator)
        variants["oracle", place.block] = [Attention.oracle(str(place), matches, keys)]
        variants["scrambled", place.block] = [scrambled]
    numbered = pair.named(())
    effects = sweep(tested.model, numbered, variants)
    chosen = effects[effects.metric.isin(("rotation_error", "pointmap_error2"))]
    return pd.DataFrame(
        {
            "pair": chosen.pair.to_numpy(),
            "block": [block for _, block in chosen.variant],
            "source": [kind for kind, _ in chosen.variant],
            "metric": "effect on " + chosen.metric.str.rstrip("2"),
            "value": chosen.effect.to_numpy(),
        }
    )


def _aligned(table: pd.DataFrame) -> Finding:
    heads, values = head_matches(table)
    found = correspondence_heads(table)
    blocks = {block for block, _ in heads}
    with_some = {block for block, _ in found}
    verdict = decide(bool(found) and len(with_some) >= len(blocks) / 2, not found)
    _, control = head_matches(table, "shuffled")
    best = int(median(values.T).argmax())
    effect = median_interval(values[:, best])
    block, head = heads[best]
    words = "the mean" if head == MEAN else f"head {head}"
    return Finding(
        "C4",
        f"{_words(table)} aligns matching patches: {len(found)} correspondence heads, in "
        f"{len(with_some)} of {len(blocks)} blocks",
        verdict,
        *effect,
        unit=f"PCK@1 of the best, {words} of block {block}",
        control=f"no head does better than {float(median(control.T).max()):.3f} with view 1 "
        "shuffled",
        pairs=len(values),
    )


def _words(table: pd.DataFrame) -> str:
    return between_views(table.get("site", ()))


def _together(table: pd.DataFrame) -> Finding:
    heads, values = head_matches(table)
    means = [i for i, (_, head) in enumerate(heads) if head == MEAN]
    errors = table[(table.metric == "pointmap_error") & (table.source == "model")]
    sites, curve = wide(errors, "site")
    ends = block_ends(sites)
    better = values[:, means].diff(dim=1)
    falls = -curve[:, ends].diff(dim=1)
    own, other = _correlation(better, falls), _correlation(better, falls.roll(1, 0))
    gap = median_interval(own - other)
    return Finding(
        "C4",
        "Within a pair, matches and geometry get better at the same blocks",
        is_above_zero(gap),
        *gap,
        unit="correlation over blocks, less that with another pair's geometry",
        control=f"correlation {float(median(own)):+.2f} within pairs, {float(median(other)):+.2f} "
        "between them",
        pairs=int((~own.isnan()).sum()),
    )


def _rests(table: pd.DataFrame) -> Finding:
    metric = "effect on rotation_error"
    blocks, oracle = _effects(table, "oracle", metric)
    _, scrambled = _effects(table, "scrambled", metric)
    _, low, _ = medians(scrambled - oracle)
    worst = int(median((scrambled - oracle).T).argmax())
    gap = scrambled[:, worst] - oracle[:, worst]
    effect = median_interval(gap)
    helped = median_interval(oracle[:, worst])
    refuted = not (low > 0).any()
    verdict = decide(effect.low > 0 and helped.low <= 0 and not refuted, refuted)
    return Finding(
        "C4",
        f"Geometry rests on the matches, most of all in block {blocks[worst]}",
        verdict,
        *effect,
        unit="degrees of rotation error, scrambled less oracle matches",
        control=f"oracle matches there change it by {as_text(helped)} degrees",
        pairs=len(gap),
    )


def _effects(table: pd.DataFrame, source: str, metric: str) -> tuple[list[int], Tensor]:
    blocks, values = wide(table[(table.source == source) & (table.metric == metric)], "block")
    return [int(block) for block in blocks], values


def _correlation(one: Float[Tensor, "n s"], other: Float[Tensor, "n s"]) -> Float[Tensor, " n"]:
    """Return Pearson's correlation of each row; NaN where a row does not vary."""
    one, other = (rows - rows.mean(1, keepdim=True) for rows in (one, other))
    return (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()


def _draw_heads(axis: "Axes", table: pd.DataFrame) -> None:
    heads, values = head_matches(table)
    _, control = head_matches(table, "shuffled")
    blocks = [block for block, _ in heads]
    axis.scatter(blocks, median(values.T), s=9, color=COLOURS["cross_attn"], label="a head")
    axis.scatter(blocks, median(control.T), s=9, color=COLOURS["control"], label="view 1 shuffled")
    mean = [i for i, (_, head) in enumerate(heads) if head == MEAN]
    curve = medians(values[:, mean])
    places = [blocks[i] for i in mean]
    band(axis, places, *curve, COLOURS["cross_attn"], "mean of heads")
    axis.set_xlabel("decoder block")
    axis.set_ylabel(f"PCK@1 of {_words(table).lower()}")
    _leave_room(axis)
    axis.legend()


def _draw_neighbours(axis: "Axes", table: pd.DataFrame) -> None:
    for what, colour in (("features", COLOURS["easy"]), ("points", COLOURS["hard"])):
        sites, values = wide(table[table.metric == f"pck@1 of {what}"], "site")
        label = {"features": "nearest features", "points": "nearest probe points"}[what]
        band(axis, range(len(sites)), *medians(values), colour, label)
        block_axis(axis, sites)
    axis.set_ylabel("PCK@1 of nearest neighbours")
    _leave_room(axis)
    axis.legend()


def _draw_interventions(axis: "Axes", table: pd.DataFrame) -> None:
    colours = {"oracle": COLOURS["easy"], "scrambled": COLOURS["hard"]}
    for source, colour in colours.items():
        blocks, values = _effects(table, source, "effect on rotation_error")
        band(axis, blocks, *medians(values), colour, f"{source} matches")
    axis.axhline(0, color=COLOURS["all"], lw=0.6)
    axis.set_xlabel("block of the replaced matches")
    axis.set_xticks(blocks)
    axis.set_ylabel("change of rotation error (degrees)")
    axis.legend()


def _leave_room(axis: "Axes") -> None:
    """Show shares from 0 to 1, with room for a legend above them."""
    axis.set_ylim(0, 1.3)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
