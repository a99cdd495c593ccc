"""C1, refinement: is geometry refined over the decoder's blocks, and what comes first?

At every residual site of the decoders the probes' pointmaps are measured like the model's output.
The controls are measured in the same way: probes of a backbone with random weights, and probes of
the encoder's output alone. `prob3r.measures.curves` defines when a curve of medians settles (it
stays at most 1.1 times its last value), is half way, falls around a block, or is under a tolerance.
The site before block 0 counts as block -1.

Rules, for the median over pairs with 95 % bootstrap intervals:

- *Geometry is refined iteratively*: supported if the pointmap error of view 2 falls over at least
  half of the blocks, each fall having an interval below zero, and the last site is below every
  control with disjoint intervals; not supported if it falls with such an interval over one block at
  most; else mixed.
- *On easy pairs rotation is right first*: supported if rotation settles before translation and
  before scale, both differences of blocks having an interval above zero; not supported if either
  has one below zero; else mixed.
- *On hard pairs the right pose takes more blocks*: supported if the difference of the blocks at
  which rotation settles, hard less easy, has an interval above zero; not supported if it has one
  at or below zero; else mixed.

An error that falls until the end settles in the last block by definition. So two more rules were
written on 28 November 2026, before the weights existed to which they are applied. They are reported
together with the second rule above and decide in the same way:

- *(centre of the fall)*: instead of the block where an error settles, the mean block, weighted by
  each block's share of the whole fall.
- *(fixed tolerances)*: the first block after which the error is under its tolerance: rotation 15
  degrees, translation 20 degrees, scale 10 %; one past the last block if it never is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, median
from prob3r.measures.curves import (
    TOLERANCES,
    block_ends,
    blocks_of,
    centre_of_fall,
    first_under,
    half_way,
    settled,
)
from prob3r.measures.errors import METRICS, decode_sites, site_errors
from prob3r.measures.statistics import (
    as_text,
    interval,
    median_interval,
    medians,
    resampled,
    wide,
)
from prob3r.models.sites import Site
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, LABELS, PAGE, band, block_axis, figure
from prob3r.studies.framework.study import Study, stratum
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide, not_measurable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rule = Callable[[str, Tensor, Tensor], Tensor]
"""A function of a metric, its curves and the block of each site, which returns a block."""


class Order(NamedTuple):
    """One rule for which error is right first.

    Attributes:
        rule: The function that returns the block.
        by: Words that are added to the statement of the finding.
        event: The event at that block, in words.
        when: Words before the number of the block.
        places: Decimals of the number of a block.
    """

    rule: Rule
    by: str
    event: str
    when: str
    places: int = 0


class Refinement(Study):
    """C1: how each error falls over the decoder's sites."""

    name = "refinement"
    title = "Geometry is refined over the blocks"
    place = 1
    probes = True

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return every error of both views at every site of the model and of the controls."""
        sources = {"model": (tested.model, tested.bank())}
        if tested.untrained is not None and "random" in tested.banks:
            sources["random"] = tested.untrained, tested.bank("random")
        if "encoder" in tested.banks:
            sources["encoder"] = tested.model, tested.bank("encoder")
        parts = [
            site_errors(decode_sites(model, bank, pair), pair).assign(source=source)
            for source, (model, bank) in sources.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the questions of C1."""
        settles, *others = (_rotation_first(table, order) for order in ORDERS)
        return [_iterative(table), settles, _hard_takes_longer(table), *others]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the curves of every error over the sites, by stratum."""
        names = [name for name in ("easy", "hard") if table[name].any()] or ["all"]
        with figure(2, 3, PAGE, 2.0) as (drawn, axes):
            for axis, metric in zip(axes, METRICS, strict=False):
                for name in names:
                    sites, values = curves(table, metric, name)
                    colour = COLOURS[name]
                    band(axis, range(len(sites)), *medians(values), colour, f"{name} pairs")
                axis.set_ylim(bottom=0)
                top = axis.get_ylim()[1]
                _, control = curves(table, metric, "all", "random")
                if control.numel():
                    best = float(median(control.T).min())
                    label = "random weights, best site\n(above the axis where not shown)"
                    axis.axhline(best, color=COLOURS["control"], ls=":", label=label)
                block_axis(axis, sites)
                axis.set_ylabel(LABELS[metric])
                axis.set_ylim(0, top)
            axes[-1].axis("off")
            axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="upper left")
        return {"errors": drawn}


def curves(
    table: pd.DataFrame, metric: str, of: str = "all", source: str = "model", view: int = 2
) -> tuple[list[str], Float[Tensor, "n s"]]:
    """Return the sites in order, and a metric at each site, one row for each pair."""
    rows = stratum(table, of)
    rows = rows[(rows.metric == metric) & (rows.source == source) & (rows.view == view)]
    return wide(rows, "site")


def _of_medians(table: pd.DataFrame, metric: str, of: str, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the block of a rule for a stratum's median curve, and for resampled median curves."""
    sites, values = curves(table, metric, of)
    blocks = blocks_of(sites)
    whole, drawn = rule(metric, median(values.T), blocks), rule(metric, resampled(values), blocks)
    return whole.double(), drawn.double()


def _settles(metric: str, values: Tensor, blocks: Tensor) -> Tensor:
    return blocks[settled(values)]


def _gets_half_way(metric: str, values: Tensor, blocks: Tensor) -> Tensor:
    return blocks[half_way(values)]


def _falls(metric: str, values: Tensor, blocks: Tensor) -> Tensor:
    return centre_of_fall(values, blocks)


def _gets_under(metric: str, values: Tensor, blocks: Tensor) -> Tensor:
    return first_under(values, blocks, TOLERANCES[metric])


ORDERS = (
    Order(_settles, "", "settling", "settles after block"),
    Order(_falls, " (centre of the fall)", "falling", "falls around block", 1),
    Order(_gets_under, " (fixed tolerances)", "under its tolerance", "is under it first in block"),
)


def _iterative(table: pd.DataFrame) -> Finding:
    sites, values = curves(table, "pointmap_error")
    start = [i for i, site in enumerate(sites) if Site.parse(site).block is None]
    ends = start + block_ends(sites)
    drops = values[:, ends[1:]] - values[:, ends[:-1]]
    _, _, high = medians(drops)
    falling, blocks = int((high < 0).sum()), len(ends) - 1
    last = median_interval(values[:, -1])
    controls = {
        source: _last(table, source) for source in ("random", "encoder") if _has(table, source)
    }
    apart = all(last.high < control.low for control in controls.values())
    verdict = decide(falling >= blocks / 2 and apart, falling <= 1)
    change = values[:, -1] - values[:, 0]
    effect = median_interval(change)
    beside = "; ".join(f"{name} {as_text(found, 3, '-')}" for name, found in controls.items())
    return Finding(
        "C1",
        f"Geometry is refined iteratively: view 2's pointmap error falls over {falling} of "
        f"{blocks} blocks",
        verdict,
        *effect,
        unit="pointmap error, last site less decoder input",
        control=f"last site of the controls: {beside or 'none given'}; of the model "
        f"{as_text(last, 3, '-')}",
        pairs=len(values),
    )


def _rotation_first(table: pd.DataFrame, order: Order) -> Finding:
    statement = f"On easy pairs rotation is right first, and translation and scale follow{order.by}"
    unit = f"blocks between rotation {order.event} and the next"
    if not table.easy.any():
        return not_measurable("C1", statement, unit, "no pair is easy", _pairs(table, "all"))
    (rotation, drawn), *others = (
        _of_medians(table, metric, "easy", order.rule)
        for metric in ("rotation_error", "translation_error", "scale_error")
    )
    gaps = [interval(value - rotation, twins - drawn) for value, twins in others]
    verdict = decide(all(gap.low > 0 for gap in gaps), any(gap.high < 0 for gap in gaps))
    later = " and ".join(
        f"{name} {as_text(gap, order.places)}"
        for name, gap in zip(("translation", "scale"), gaps, strict=True)
    )
    block = f"{float(rotation):.{order.places}f}"
    return Finding(
        "C1",
        statement,
        verdict,
        *min(gaps, key=lambda gap: gap.low),
        unit=unit,
        control=f"rotation {order.when} {block}; later by: {later}",
        pairs=_pairs(table, "easy"),
    )


def _hard_takes_longer(table: pd.DataFrame) -> Finding:
    statement = "On hard pairs the right pose takes more blocks than on easy ones"
    unit = "blocks until the rotation error settles, hard less easy"
    for of in ("easy", "hard"):
        if not table[of].any():
            return not_measurable("C1", statement, unit, f"no pair is {of}", _pairs(table, "all"))
    (easy, easy_drawn), (hard, hard_drawn) = (
        _of_medians(table, "rotation_error", of, _settles) for of in ("easy", "hard")
    )
    gap = interval(hard - easy, hard_drawn - easy_drawn)
    verdict = decide(gap.low > 0, gap.high <= 0)
    half = [
        int(_of_medians(table, "rotation_error", of, _gets_half_way)[0]) for of in ("easy", "hard")
    ]
    return Finding(
        "C1",
        statement,
        verdict,
        *gap,
        unit=unit,
        control=f"settled after block {int(easy)} on easy and {int(hard)} on hard pairs, half way "
        f"after {half[0]} and {half[1]}",
        pairs=_pairs(table, "hard"),
    )


def _last(table: pd.DataFrame, source: str) -> Interval:
    """Return a control's pointmap error at its last site."""
    _, values = curves(table, "pointmap_error", source=source)
    return median_interval(values[:, -1])


def _has(table: pd.DataFrame, source: str) -> bool:
    return bool((table.source == source).any())


def _pairs(table: pd.DataFrame, of: str) -> int:
    return int(stratum(table, of).pair.nunique())
