"""C1, refinement: is geometry refined over the decoder's blocks, and what comes first?

At every residual site of the decoders the probes' pointmaps are measured like the model's output,
and so are those of the controls: probes of a backbone with random weights, and of the encoder's
output alone. A *block* of a curve of medians is the first after which the error is, for good, at
most half way from its first value to its last (`half`), or at most 1.1 times its last (`settled`).
The site before block 0 counts as -1.

Rules, for the median over pairs with 95 % bootstrap intervals:

- *Geometry is refined iteratively*: supported if the pointmap error of view 2 falls over at least
  half of the blocks, each fall having an interval below zero, and the last site is below every
  control with disjoint intervals; not supported if it falls so over one block at most; else mixed.
- *On easy pairs rotation is right first*: supported if rotation settles before translation and
  before scale, both differences of blocks having an interval above zero; not supported if either
  has one below zero; else mixed.
- *On hard pairs the right pose takes more blocks*: supported if the difference of the blocks at
  which rotation settles, hard less easy, has an interval above zero; not supported if it has one
  at or below zero; else mixed.
"""

from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.geometry import Interval, median
from prob3r.measures.errors import METRICS, decode_sites, site_errors
from prob3r.measures.statistics import interval, median_interval, medians, resampled, said, wide
from prob3r.models.sites import Site
from prob3r.scenes.views import Pair
from prob3r.studies.figures import COLOURS, LABELS, PAGE, band, block_axis, figure
from prob3r.studies.study import Finding, Study, Subject, Verdict, stratum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF, SETTLED = "half", "settled"


class Refinement(Study):
    """C1: how each error goes down over the decoder's sites."""

    name = "refinement"
    title = "Geometry is refined over the blocks"

    def measure(self, subject: Subject, pair: Pair) -> pd.DataFrame:
        """Return every error of both views at every site of the model and of the controls."""
        sources = {"model": (subject.model, subject.bank())}
        if subject.untrained is not None:
            sources["random"] = subject.untrained, subject.bank("random")
        if "encoder" in subject.banks:
            sources["encoder"] = subject.model, subject.bank("encoder")
        parts = [
            site_errors(decode_sites(model, bank, pair), pair).assign(source=source)
            for source, (model, bank) in sources.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the three questions of C1."""
        return [_iterative(table), _rotation_first(table), _hard_takes_longer(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the curves of every error over the sites, by stratum."""
        with figure(2, 3, PAGE, 2.0) as (drawn, axes):
            for axis, metric in zip(axes, METRICS, strict=False):
                for name in ("easy", "hard"):
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
    """Return the sites in their order, and a metric at each of them, one row a pair."""
    rows = stratum(table, of)
    rows = rows[(rows.metric == metric) & (rows.source == source) & (rows.view == view)]
    return wide(rows, "site")


def reached(
    values: Float[Tensor, "*b s"], blocks: Int[Tensor, " s"], kind: str
) -> Float[Tensor, "*b"]:
    """Return the block of a curve as the docstring of this file defines it.

    Args:
        values: Curves over sites.
        blocks: The block of each site, -1 for the input.
        kind: `half` or `settled`.
    """
    first, last = values[..., :1], values[..., -1:]
    bar = (first + last) / 2 if kind == HALF else 1.1 * last
    above = values > bar
    # The site after the last one above the bar; the last site itself is never above it.
    after = (above * torch.arange(1, values.shape[-1] + 1)).amax(-1)
    return blocks[after.clamp_max(values.shape[-1] - 1)].double()


def _blocks(sites: list[str]) -> Int[Tensor, " s"]:
    blocks = [Site.parse(site).block for site in sites]
    return torch.tensor([-1 if block is None else block for block in blocks])


def _reached(table: pd.DataFrame, metric: str, of: str, kind: str) -> tuple[Tensor, ...]:
    """Return the block at which a stratum's median curve gets there, and its resampled twins."""
    sites, values = curves(table, metric, of)
    blocks = _blocks(sites)
    whole = reached(median(values.T), blocks, kind)
    return whole, reached(resampled(values), blocks, kind)


def _iterative(table: pd.DataFrame) -> Finding:
    sites, values = curves(table, "pointmap_error")
    ends = [i for i, site in enumerate(sites) if site.endswith((".embed", ".mlp"))]
    drops = values[:, ends[1:]] - values[:, ends[:-1]]
    _, _, high = medians(drops)
    falling, blocks = int((high < 0).sum()), len(ends) - 1
    last = median_interval(values[:, -1])
    controls = {
        source: _last(table, source) for source in ("random", "encoder") if _has(table, source)
    }
    apart = all(last.high < control.low for control in controls.values())
    verdict: Verdict = "mixed"
    if falling >= blocks / 2 and apart:
        verdict = "supported"
    elif falling <= 1:
        verdict = "not supported"
    change = values[:, -1] - values[:, 0]
    effect = median_interval(change)
    beside = "; ".join(f"{name} {said(found, 3, '-')}" for name, found in controls.items())
    return Finding(
        "C1",
        f"Geometry is refined iteratively: view 2's pointmap error falls over {falling} of "
        f"{blocks} blocks",
        verdict,
        *effect,
        unit="pointmap error, last site less decoder input",
        control=f"last site of the controls: {beside or 'none given'}; of the model "
        f"{said(last, 3, '-')}",
        pairs=len(values),
    )


def _rotation_first(table: pd.DataFrame) -> Finding:
    (rotation, drawn), *others = (
        _reached(table, metric, "easy", SETTLED)
        for metric in ("rotation_error", "translation_error", "scale_error")
    )
    gaps = [interval(value - rotation, twins - drawn) for value, twins in others]
    verdict: Verdict = "mixed"
    if all(gap.low > 0 for gap in gaps):
        verdict = "supported"
    elif any(gap.high < 0 for gap in gaps):
        verdict = "not supported"
    later = " and ".join(
        f"{name} {said(gap, 0)}" for name, gap in zip(("translation", "scale"), gaps, strict=True)
    )
    return Finding(
        "C1",
        "On easy pairs rotation is right first, and translation and scale follow",
        verdict,
        *min(gaps, key=lambda gap: gap.low),
        unit="blocks between rotation settling and the next",
        control=f"rotation settles after block {int(rotation)}; later by: {later}",
        pairs=_pairs(table, "easy"),
    )


def _hard_takes_longer(table: pd.DataFrame) -> Finding:
    (easy, easy_drawn), (hard, hard_drawn) = (
        _reached(table, "rotation_error", of, SETTLED) for of in ("easy", "hard")
    )
    gap = interval(hard - easy, hard_drawn - easy_drawn)
    verdict: Verdict = "supported" if gap.low > 0 else "not supported" if gap.high <= 0 else "mixed"
    half = [int(_reached(table, "rotation_error", of, HALF)[0]) for of in ("easy", "hard")]
    return Finding(
        "C1",
        "On hard pairs the right pose takes more blocks than on easy ones",
        verdict,
        *gap,
        unit="blocks until the rotation error settles, hard less easy",
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
