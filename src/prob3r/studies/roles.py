"""C2, roles: what does each kind of sublayer do to view 2's geometry?

The kinds are self-attention, cross-attention (or the global attention of other models, which takes
its place everywhere below) and the MLPs.

The effect of a sublayer on an error is the error of the probe's pointmap after it less that before
it, pair by pair, summed over the blocks for each kind. The displacement field of a sublayer is how
far it moves the mean point of every patch. It is measured separately on patches that view 1 sees
too (co-visible) and on the others: its size, its alignment (the cosine with the direction to the
true position), and the share of its energy that the best rigid motion explains. The control is the
same model with the view 1 of another pair. The fields of one pair, the first hard one, are drawn as
arrows.

Rules, for the median over pairs with 95 % bootstrap intervals:

- *Cross-attention moves patches of view 2 towards their matches*: supported if its alignment on
  co-visible patches, averaged over blocks, is above zero and above that of the control, both
  intervals excluding zero; not supported if the first is not above zero; else mixed.
- *Self-attention restores view 2's shape*: supported if its effect on the shape error is below
  zero and below that of both other kinds, all intervals excluding zero; not supported if it is not
  below zero; else mixed.
- *Self-attention helps most where cross-attention could not*: supported if self-attention lowers
  the distance to the true position more on patches that are not co-visible than on co-visible
  ones, the interval of the difference excluding zero; not supported if it excludes zero on the
  other side; else mixed.
- *Self-attention lowers the pointmap error the most*: supported if its effect on the pointmap
  error is below that of both other kinds, intervals excluding zero; not supported if it is above
  that of one of them, with an interval that excludes zero; else mixed.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.measures.controls import SHUFFLED
from prob3r.measures.displacement import Field, fields
from prob3r.measures.errors import METRICS, decode_sites, site_errors
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.measures.steps import SUBLAYER_WORDS as WORDS
from prob3r.measures.strata import strata
from prob3r.models.sites import BETWEEN_VIEWS, SUBLAYERS, Site
from prob3r.scenes.sampling import sample
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs, batches
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, LABELS, PAGE, band, figure
from prob3r.studies.framework.study import WITHIN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, is_below_zero

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN = "self_attn"
FIELD_LABELS = {
    "size": "displacement (pair's unit)",
    "alignment": "cosine with way to truth",
    "approach": "change of distance to truth",
}
EXAMPLE_AMONG = 16  # the first hard pair among so many is shown as arrows
ABOVE = [0, 2]  # the axes that are seen from above: x to the right, z upwards
MARGIN = 0.04  # of the pair's unit, around what is drawn


class Example(NamedTuple):
    """The displacement fields of one pair, for arrows; a batch of one, on the CPU.

    Attributes:
        words: The name of the pair, and whether it is hard.
        fields: The field of every sublayer of view 2, by site.
        seen: Whether view 1 sees each patch too.
    """

    words: str
    fields: dict[str, Field]
    seen: Bool[Tensor, "1 n"]


class Roles(Study):
    """C2: the effect of every sublayer, and the displacement field that it causes."""

    name = "roles"
    title = "Sublayers have roles"
    place = 2
    probes = True
    attention = WITHIN
    example: Example | None = None

    def illustrate(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Choose the pair to show as arrows: the first hard one of a few pairs, or the first."""
        few = next(batches(sample(pairs, EXAMPLE_AMONG), EXAMPLE_AMONG, EXAMPLE_AMONG))
        _, hard = strata(few)
        pair = few[int(hard.int().argmax())].to(next(tested.model.parameters()).device)
        patch = tested.model.config.patch
        with torch.no_grad():
            found = fields(decode_sites(tested.model, tested.bank(), pair), pair, patch)
        self.example = Example(
            f"{', '.join(pair.names)} ({'a hard pair' if hard.any() else 'not a hard pair'})",
            {site: Field(*(t.cpu() for t in field)) for site, field in found.items()},
            pair.patch_matches(patch).visible.cpu(),
        )

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the effects and fields of view 2's sublayers, and the fields of the control."""
        patch = tested.model.config.patch
        points = decode_sites(tested.model, tested.bank(), pair)
        parts = [_effects(site_errors(points, pair)), _fields(points, pair, patch, "model")]
        control = shuffled(pair)
        others = decode_sites(tested.model, tested.bank(), control.pair)
        parts.append(control.masked(_fields(others, pair, patch, SHUFFLED)))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the four questions of C2."""
        return [_towards_matches(table), _shape(table), _elsewhere(table), _most(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the effects on every error, the fields block by block, and one pair's arrows."""
        kinds = kinds_of(table)
        with figure(1, len(METRICS), PAGE, 1.9) as (effects, axes):
            for axis, metric in zip(axes, METRICS, strict=True):
                for place, kind in enumerate(kinds):
                    found = median_interval(
                        per_pair(table, f"effect on {metric}", kind, total=True)
                    )
                    bars = [[found.value - found.low], [found.high - found.value]]
                    axis.bar(place, found.value, color=COLOURS[kind])
                    axis.errorbar(place, found.value, bars, color=COLOURS["all"], lw=0.8)
                axis.axhline(0, color=COLOURS["all"], lw=0.6)
                names = [_short(kind) for kind in kinds]
                axis.set_xticks(range(len(kinds)), names, rotation=40, ha="right")
                axis.set_title(LABELS[metric], fontsize=6.5)
            axes[0].set_ylabel("change over all blocks")
        with figure(1, 3, PAGE, 2.5) as (moves, axes):
            for axis, name in zip(axes, ("size", "alignment", "approach"), strict=True):
                for kind in kinds:
                    for where, style in (("co-visible", "-"), ("other", ":")):
                        chosen = (table.metric == f"{name}, {where}") & (table.kind == kind)
                        rows = table[chosen & (table.source == "model")]
                        blocks, values = wide(rows, "block")
                        label = f"{WORDS[kind]}, {where}"
                        curve = medians(values)
                        band(axis, blocks, *curve, COLOURS[kind], label, style)
                axis.axhline(0, color=COLOURS["all"], lw=0.6)
                axis.set_xlabel("decoder block")
                axis.set_ylabel(FIELD_LABELS[name])
            handles, labels = axes[0].get_legend_handles_labels()
            moves.legend(handles, labels, loc="outside lower center", ncols=3)
        drawn = {"effects": effects, "fields": moves}
        return drawn if self.example is None else drawn | {"arrows": _arrows(self.example)}


def _effects(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the change of every error of view 2 across every sublayer."""
    view2 = errors[errors.view == 2]
    values = view2.pivot(index=["pair", "metric"], columns="site", values="value")
    sites = list(dict.fromkeys(view2.site))
    changes = values[sites].diff(axis=1)[sites[1:]].stack(future_stack=True)
    table = pd.DataFrame({"value": changes}).reset_index()
    return _described(table.assign(source="model", metric="effect on " + table.metric))


def _fields(points: dict[str, Tensor], pair: Pair, patch: int, source: str) -> pd.DataFrame:
    """Return the measures of the displacement field of every sublayer of view 2."""
    seen = pair.patch_matches(patch).visible
    parts = []
    for site, field in fields(points, pair, patch).items():
        values = {"rigid share": field.rigid_share()}
        for where, mask in (("co-visible", seen), ("other", ~seen)):
            values[f"size, {where}"] = field.size(mask)
            values[f"alignment, {where}"] = field.alignment(mask)
            values[f"approach, {where}"] = field.approach(mask)
        rows = {"pair": range(len(pair)), "site": site, "source": source}
        parts += [
            pd.DataFrame(rows | {"metric": metric, "value": found.cpu().numpy()})
            for metric, found in values.items()
        ]
    return _described(pd.concat(parts, ignore_index=True))


def _arrows(example: Example) -> "Figure":
    """Return one pair's displacements from above: a row a block, a column a kind of sublayer."""
    every = {Site.parse(site): field for site, field in example.fields.items()}
    every = {site: field for site, field in every.items() if site.block is not None}
    depth, kinds = len({site.block for site in every}), _in_order({s.sublayer for s in every})
    blocks = {0, (depth - 1) // 2, depth - 1}
    found = {(s.block, s.sublayer): f for s, f in every.items() if s.block in blocks}
    shown = {(b, k): found[b, k] for b in sorted(blocks) for k in kinds if (b, k) in found}
    places = [place for f in shown.values() for place in (f.start, f.start + f.move, f.target)]
    known = next(iter(shown.values())).known
    ends = torch.cat([place[known][:, ABOVE] for place in places])
    left, near = (ends.amin(0) - MARGIN).tolist()
    right, far = (ends.amax(0) + MARGIN).tolist()
    height = PAGE / len(kinds) * (far - near) / (right - left)
    with figure(len(blocks), len(kinds), PAGE, height) as (drawn, axes):
        for axis, ((block, kind), field) in zip(axes, shown.items(), strict=False):
            start, move, target = (t[..., ABOVE] for t in field[:3])
            x, z = target[known].T
            axis.scatter(x, z, s=4, color="#c3cbd3", linewidths=0, label="true position")
            for where, alpha, label in (
                (~example.seen, 0.4, "other patch"),
                (example.seen, 1.0, "co-visible patch"),
            ):
                axis.quiver(
                    *start[known & where].T,
                    *move[known & where].T,
                    angles="xy",
                    scale_units="xy",
                    scale=1,
                    width=0.006,
                    color=COLOURS[kind],
                    alpha=alpha,
                )
                axis.plot([], [], color=COLOURS["all"], alpha=alpha, label=label)
            axis.set(aspect="equal", xlim=(left, right), ylim=(near, far))
            axis.set(xlabel="x (pair's unit)", ylabel="z (pair's unit)")
            axis.set_title(f"block {block}, {WORDS[kind]}", color=COLOURS[kind])
            axis.label_outer()
        drawn.suptitle(f"View 2 of {example.words}, from above", fontsize=8)
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


def _described(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the block and the kind of each site's sublayer."""
    sites = [Site.parse(site) for site in table.site]
    blocks = pd.Series([s.block for s in sites], table.index)
    return table.assign(block=blocks, kind=[s.sublayer for s in sites])


def kinds_of(table: pd.DataFrame) -> list[str]:
    """Return the kinds of sublayers in a table, in the order of `SUBLAYERS`."""
    return _in_order(set(table.kind))


def between_of(table: pd.DataFrame) -> str:
    """Return the kind of sublayer that attends between views."""
    return next(kind for kind in BETWEEN_VIEWS if kind in set(table.kind))


def _in_order(kinds: Collection[str]) -> list[str]:
    return [kind for kind in SUBLAYERS if kind in kinds]


def _short(kind: str) -> str:
    return WORDS[kind].removesuffix("attention").rstrip(" -")


def per_pair(
    table: pd.DataFrame, metric: str, kind: str, source: str = "model", total: bool = False
) -> Float[Tensor, " n"]:
    """Return a metric of one kind of sublayer for each pair, over the blocks.

    Args:
        table: The study's rows.
        metric: Which.
        kind: The sublayer, such as `self_attn`.
        source: `model` or `shuffled`.
        total: Whether to add the blocks up, rather than to take their mean.
    """
    chosen = (table.metric == metric) & (table.kind == kind) & (table.source == source)
    _, values = wide(table[chosen], "block")
    return values.sum(1) if total else values.nanmean(1)


def _towards_matches(table: pd.DataFrame) -> Finding:
    metric, moving = "alignment, co-visible", between_of(table)
    true = per_pair(table, metric, moving)
    effect = median_interval(true)
    control = per_pair(table, metric, moving, SHUFFLED)
    more = median_interval(true - control)
    verdict = decide(effect.low > 0 and more.low > 0, effect.low <= 0)
    others = ", ".join(
        f"{WORDS[kind]} {as_text(median_interval(per_pair(table, metric, kind)), 3)}"
        for kind in kinds_of(table)
        if kind != moving
    )
    return Finding(
        "C2",
        f"{WORDS[moving].capitalize()} moves patches of view 2 towards their matches",
        verdict,
        *effect,
        unit="cosine with the direction to the truth, co-visible patches",
        control=f"view 1 shuffled {as_text(median_interval(control), 3)}; {others}",
        pairs=len(true),
    )


def _shape(table: pd.DataFrame) -> Finding:
    return _lowest(
        table,
        "shape_error",
        "Self-attention restores view 2's shape",
        needs_fall=True,
    )


def _most(table: pd.DataFrame) -> Finding:
    return _lowest(
        table,
        "pointmap_error",
        "Self-attention lowers view 2's pointmap error the most",
        needs_fall=False,
    )


def _lowest(table: pd.DataFrame, metric: str, statement: str, needs_fall: bool) -> Finding:
    """Return whether self-attention's effect is below that of both other kinds."""
    kinds = kinds_of(table)
    effects = {k: per_pair(table, f"effect on {metric}", k, total=True) for k in kinds}
    own, rest = median_interval(effects[OWN]), [kind for kind in kinds if kind != OWN]
    gaps = [median_interval(effects[OWN] - effects[kind]) for kind in rest]
    fails = own.high >= 0 if needs_fall else any(gap.low > 0 for gap in gaps)
    verdict = decide(all(gap.high < 0 for gap in gaps) and own.high < 0, fails)
    others = ", ".join(f"{WORDS[k]} {as_text(median_interval(effects[k]), 3)}" for k in rest)
    return Finding(
        "C2",
        statement,
        verdict,
        *own,
        unit=f"change of the {metric.replace('_', ' ')} over all blocks",
        control=f"the other kinds: {others}",
        pairs=len(effects[OWN]),
    )


def _elsewhere(table: pd.DataFrame) -> Finding:
    seen, other = (
        per_pair(table, f"approach, {where}", OWN, total=True) for where in ("co-visible", "other")
    )
    gap, moving = median_interval(other - seen), between_of(table)
    cross = [
        as_text(median_interval(per_pair(table, f"approach, {where}", moving, total=True)), 3)
        for where in ("co-visible", "other")
    ]
    return Finding(
        "C2",
        f"Self-attention helps most where {WORDS[moving]} could not",
        is_below_zero(gap),
        *gap,
        unit="change of the distance to the truth, other patches less co-visible ones",
        control=f"self-attention: co-visible {as_text(median_interval(seen), 3)}, "
        f"other {as_text(median_interval(other), 3)}; "
        f"{WORDS[moving]}: co-visible {cross[0]}, other {cross[1]}",
        pairs=len(seen),
    )
