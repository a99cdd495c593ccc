"""View 2's cross-attention read as matching, head by head, and which heads are matchers.

Of every co-visible patch, is the patch of view 1 that it attends to most within one patch of the
true match (PCK@1)? The control (`prob3r.measures.controls`) shows the model another view 1 and asks
for the same matches: what a head finds then, it finds by place alone. A *correspondence head* is
one whose median PCK@1 has an interval above everything that its control reaches in any bootstrap
draw.
"""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    PatchMatches,
    cycle_consistency,
    end_point_error,
    median,
    patch_grid,
    pck,
    percentiles,
)
from prob3r.measures.controls import require_control
from prob3r.measures.statistics import resampled, wide
from prob3r.models.sites import Site
from prob3r.runs.trace import REDUCTIONS, Reduction, Trace
from prob3r.scenes.views import Pair

MEAN = "mean"
"""The mean of a block's heads, which stands beside them as one more."""

MATCHES = tuple(f"dec?.*.cross_attn.{name}" for name in ("argmax", "mean_argmax", "entropy"))
"""What `head_table` needs of a run."""

READ = {
    **REDUCTIONS,
    "mean_argmax": Reduction(lambda probs: probs.mean(1, keepdim=True).argmax(-1)),
}
"""The reductions that give it."""


def head_table(
    run: Trace, pair: Pair, matches: PatchMatches, patch: int, source: str
) -> pd.DataFrame:
    """Return how each head of view 2's cross-attention matches, and the mean of each block's.

    Args:
        run: Of the pairs or of the control, with `MATCHES` recorded.
        pair: The pairs.
        matches: Their true matches.
        patch: Side of the model's patches, in pixels.
        source: What to call the run: `model` or `shuffled`.
    """
    grid1, grid2 = (patch_grid(*view.size, patch) for view in (pair.view1, pair.view2))
    blocks = sorted(
        {Site.parse(site.rpartition(".")[0]).block or 0 for site in run if "argmax" in site}
    )
    parts = []
    for block in blocks:
        attended = torch.cat(
            [run[f"dec2.{block}.cross_attn.{name}"] for name in ("argmax", "mean_argmax")], 1
        )
        back = run[f"dec1.{block}.cross_attn.mean_argmax"].expand(-1, attended.shape[1], -1)
        values = {
            "pck@1": pck(attended, matches.match, matches.visible, grid1),
            "end-point error": end_point_error(attended, matches.match, matches.visible, grid1),
            "cycle consistency": cycle_consistency(attended, back, grid2, matches.visible),
            "entropy": run[f"dec2.{block}.cross_attn.entropy"].mean(-1),
        }
        for metric, found in values.items():
            for head, column in enumerate(found.unbind(1)):
                name = MEAN if head == attended.shape[1] - 1 else str(head)
                rows = {"pair": range(len(pair)), "block": block, "head": name, "source": source}
                part = pd.DataFrame(rows | {"metric": metric, "value": column.cpu().numpy()})
                parts.append(part)
    return pd.concat(parts, ignore_index=True)


def head_matches(
    table: pd.DataFrame, source: str = "model", metric: str = "pck@1"
) -> tuple[list[tuple[int, str]], Float[Tensor, "n s"]]:
    """Return every head of view 2 as (block, head), and a metric of it, one row a pair."""
    rows = table[(table.metric == metric) & (table.source == source)]
    named = rows.assign(key=rows.block.astype(int).astype(str) + " " + rows["head"].astype(str))
    keys, values = wide(named, "key")
    return [(int(key.split()[0]), key.split()[1]) for key in keys], values


class MatchAccuracy(NamedTuple):
    """The PCK@1 of every head, held against its control; means of heads are left out.

    Attributes:
        heads: As (block, head).
        middle: Their medians over pairs.
        drawn: The same in every bootstrap draw.
        low: Lower end of the interval of each head's median.
        control: The most that the control's median is in any bootstrap draw.
    """

    heads: list[tuple[int, str]]
    middle: Float[Tensor, " s"]
    drawn: Float[Tensor, "draws s"]
    low: Float[Tensor, " s"]
    control: Float[Tensor, " s"]


def match_accuracy(table: pd.DataFrame) -> MatchAccuracy:
    """Return how far the heads of a table get, and how far their controls do.

    Raises:
        Prob3rError: No pair has a control.
    """
    require_control(table)
    heads, values = head_matches(table[table["head"] != MEAN])
    theirs, control = head_matches(table[table["head"] != MEAN], "shuffled")
    order = [theirs.index(head) for head in heads]
    most = resampled(control[:, order]).nan_to_num(0).amax(0)
    drawn = resampled(values)
    return MatchAccuracy(heads, median(values.T), drawn, percentiles(drawn)[0], most)


def correspondence_heads(table: pd.DataFrame) -> list[tuple[int, str]]:
    """Return the heads that match better than their control ever does; means are left out."""
    found = match_accuracy(table)
    matching = (found.low > found.control).tolist()
    return [head for head, matches in zip(found.heads, matching, strict=True) if matches]
