"""View 2's attention to view 1 as matches, head by head, and which heads find the true matches.

PCK@1 is the share of co-visible patches whose most attended patch of view 1 is within one patch of
the true match. The control (`prob3r.measures.controls`) shows the model another view 1 and keeps
the true matches: a head then finds matches by position alone. A *correspondence head* is a head
whose interval of the median PCK@1 lies above the median of its control in every bootstrap draw.
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
from prob3r.measures.attention import patch_queries, peaks
from prob3r.measures.controls import require_control
from prob3r.measures.statistics import resampled, wide
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.runs.trace import Trace
from prob3r.scenes.views import Pair, Views

MEAN = "mean"
"""The name of the mean of a block's heads, which tables list as one more head."""


def match_sites(model: Model) -> list[str]:
    """Return the sites that `head_table` needs recorded, by the reductions `PEAKS`."""
    places = trunk(model).between(1)
    view2 = [p.of(2).read(name) for p in places for name in ("peak", "mean_peak", "entropy")]
    return [str(site) for site in (*view2, *(p.read("mean_peak") for p in places))]


def head_table(
    run: Trace, model: Model, pair: Pair, matches: PatchMatches, source: str
) -> pd.DataFrame:
    """Return the metrics of each head of view 2's attention to view 1, and of each block's mean.

    Args:
        run: A run of the pairs or of the control, with `match_sites` recorded.
        model: The model.
        pair: The pairs.
        matches: Their true matches.
        source: Name of the run: `model`, or `shuffled` for the control.
    """
    patch = model.config.patch
    grid1, grid2 = (patch_grid(*view.size, patch) for view in (pair.view1, pair.view2))
    parts = []
    for place in trunk(model).between(1):
        view2 = place.of(2)
        found = torch.cat([peaks(run, view2.read(name), 1) for name in ("peak", "mean_peak")], 1)
        back = peaks(run, place.read("mean_peak"), 2).expand(-1, found.shape[1], -1)
        values = {
            "pck@1": pck(found, matches.match, matches.visible, grid1),
            "end-point error": end_point_error(found, matches.match, matches.visible, grid1),
            "cycle consistency": cycle_consistency(found, back, grid2, matches.visible),
            "entropy": patch_queries(run, view2.read("entropy")).mean(-1),
        }
        for metric, by_head in values.items():
            for head, column in enumerate(by_head.unbind(1)):
                name = MEAN if head == found.shape[1] - 1 else str(head)
                about = {"block": place.block, "head": name, "source": source, "metric": metric}
                rows = {"pair": range(len(pair)), **about, "value": column.cpu().numpy()}
                parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def matching_sites(model: Model, views: int) -> list[str]:
    """Return the sites that `head_pck` needs recorded, by the reductions `PEAKS`."""
    places = trunk(model).between(2)
    return [
        str(place.of(view).read(name))
        for name in ("peak", "entropy")
        for place in places
        for view in range(2, views + 1)
    ]


def head_pck(
    run: Trace, model: Model, views: Views
) -> tuple[list[tuple[int, int]], Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Return every head of the attention between views as (block, head), its PCK@1 and its entropy.

    PCK@1 is that of the attention of each view but the first to view 1, mean over these views. The
    entropy is in nats, mean over their patches.

    Args:
        run: A run of scenes of any number of views, with `matching_sites` recorded.
        model: The model.
        views: The scenes, with the full truth.
    """
    patch, numbers = model.config.patch, range(2, views.count + 1)
    grid1 = patch_grid(*views.view(1).size, patch)
    matches = {view: views.pair(1, view).patch_matches(patch) for view in numbers}
    heads, accuracies, entropies = [], [], []
    for place in trunk(model).between(2):
        assert place.block is not None  # attention is that of a block
        accuracy, spread = [], []
        for view, (match, visible) in matches.items():
            own = place.of(view)
            found = peaks(run, own.read("peak"), 1, views.count)
            accuracy.append(pck(found, match, visible, grid1))
            spread.append(patch_queries(run, own.read("entropy")).mean(-1))
        accuracies.append(torch.stack(accuracy).nanmean(0))
        entropies.append(torch.stack(spread).mean(0))
        heads += [(place.block, head) for head in range(accuracies[-1].shape[1])]
    return heads, torch.cat(accuracies, 1), torch.cat(entropies, 1)


def head_matches(
    table: pd.DataFrame, source: str = "model", metric: str = "pck@1"
) -> tuple[list[tuple[int, str]], Float[Tensor, "n s"]]:
    """Return every head of view 2 as (block, head), and a metric of it, one row a pair."""
    rows = table[(table.metric == metric) & (table.source == source)]
    named = rows.assign(key=rows.block.astype(int).astype(str) + " " + rows["head"].astype(str))
    keys, values = wide(named, "key")
    return [(int(key.split()[0]), key.split()[1]) for key in keys], values


class MatchAccuracy(NamedTuple):
    """The PCK@1 of every head and of its control, without means of heads.

    Attributes:
        heads: As (block, head).
        middle: Their medians over pairs.
        drawn: The same in every bootstrap draw.
        low: Lower end of the interval of each head's median.
        control: The largest median of each head's control in any bootstrap draw.
    """

    heads: list[tuple[int, str]]
    middle: Float[Tensor, " s"]
    drawn: Float[Tensor, "draws s"]
    low: Float[Tensor, " s"]
    control: Float[Tensor, " s"]


def match_accuracy(table: pd.DataFrame) -> MatchAccuracy:
    """Return the PCK@1 of the heads of a table and of their controls.

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
    """Return the heads whose interval lies above all draws of their control, without means."""
    found = match_accuracy(table)
    matching = (found.low > found.control).tolist()
    return [head for head, matches in zip(found.heads, matching, strict=True) if matches]
