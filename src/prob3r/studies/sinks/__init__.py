"""N7, sinks: are attention sinks of two kinds, those that write nothing and those that broadcast?

The sinks are those of view 2's heads in the trunk, found over the first `SINK_PAIRS` pairs
(`prob3r.measures.tokens`). Three numbers of each sink are measured (`prob3r.measures.values`): the
norm of its value, relative to the median over the keys of its head; the share of its head's output
that it adds; and the effective rank of its head's output over queries. The contribution of one key
has rank one by definition, so the rank of the whole output is taken. A *no-op sink* has a value
norm under `NO_OP_NORM` of its head's median, over the same pairs; any other sink is a *broadcast
sink*.

All sinks of a kind are cut in their own heads, in view 2's attention, in the modes of `Knockout`:
`mask`, where the remaining attention sums to one again, and `zero`, where nothing else changes. The
controls are as many random keys of the same heads that are not sinks (`count`), and random keys
that hold as much attention together (`mass`). The change by a cut is the mean distance between view
2's pointmaps with and without the cut, in the unit of the scene; errors against the truth are
reported too.

Reported (arXiv 2606.08105): no-op sinks have small value norms, broadcast sinks make outputs of low
rank.

Rules, for medians over pairs with 95 % bootstrap intervals:

- *Sinks are of two kinds by their value norm*: the logarithms of the sinks' value norms, each a
  mean over pairs, have more than one mode by Silverman's test (`prob3r.measures.modes`). Supported
  if a single mode is rejected (p below `LEVEL`), it is not for the control (one random key of the
  same head for each sink, which is no sink), and there are sinks of both kinds; not supported if it
  is not rejected although there are at least `ENOUGH` sinks; else mixed.
- *Broadcast sinks make outputs of low rank*: supported if the rank of the heads with broadcast
  sinks is below that of heads without sinks, not supported if it is above, both by an interval that
  excludes zero; else mixed.
- *Removing no-op sinks changes nothing, and removing broadcast sinks does*: in the mode `zero`, the
  change by no-op sinks is not above that of its `count` control, and the change by broadcast sinks
  is, by intervals. Supported if both hold, not supported if neither does, else mixed. The mode
  `mask` is reported beside it.

If there are no sinks of a kind, the claims about that kind cannot be measured.
"""

from typing import TYPE_CHECKING

import pandas as pd
import torch

from prob3r.measures.modes import modality
from prob3r.measures.statistics import as_text, median_interval
from prob3r.measures.tokens import SINK
from prob3r.measures.values import written
from prob3r.models.protocol import trunk
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair
from prob3r.studies.cuts.effects import effects_of
from prob3r.studies.framework.figures import PAGE, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import (
    NOT_MEASURABLE,
    Finding,
    decide,
    is_below_zero,
    not_measurable,
)
from prob3r.studies.sinks.contrasts import of_keys, per_pair, removal_contrast
from prob3r.studies.sinks.figures import draw_norms, draw_ranks, draw_removals
from prob3r.studies.sinks.measured import (
    BROADCAST,
    CONTROL,
    KINDS,
    MODES,
    NO_OP,
    NONE,
    NORM,
    OUTPUT_SHARE,
    RANK,
    SinkKinds,
    changes,
    removals,
    writes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINK_PAIRS = 32
LEVEL = 0.05  # of Silverman's test
ENOUGH = 10  # sinks


class AttentionSinks(Study):
    """N7: value norms and output ranks of sinks, and what removing each kind changes."""

    name = "sinks"
    title = "Attention sinks are of two kinds"
    prepared_on = SINK_PAIRS
    place = 17
    batch = 8
    most = 64
    output = True
    attention = BETWEEN

    def __init__(self) -> None:
        self.known: SinkKinds | None = None

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Find the sinks and their kinds."""
        self.known = SinkKinds.of(tested.model, pairs, SINK_PAIRS, self.batch)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return what sinks and their controls write, and what removing them changes."""
        assert self.known is not None  # `prepare` comes first
        found = written(tested.model, pair, trunk(tested.model).attention(2))
        parts = [writes(found, self.known)]
        variants = removals(found, pair, self.known)
        if variants:
            parts.append(effects_of(tested.model, pair, variants, changes))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the three questions of N7."""
        return [_two_kinds(table), _low_rank(table), _removing(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the value norms, the ranks, and what removing sinks changes."""
        with figure(1, 3, PAGE, 2.6) as (drawn, axes):
            draw_norms(axes[0], table)
            draw_ranks(axes[1], table)
            draw_removals(axes[2], table)
        return {"sinks": drawn}


def _two_kinds(table: pd.DataFrame) -> Finding:
    counts = {kind: len(of_keys(table, NORM, (kind,))) for kind in KINDS}
    total = sum(counts.values())
    statement = (
        f"Sinks are of two kinds by their value norm: {counts[NO_OP]} no-op and "
        f"{counts[BROADCAST]} broadcast sinks, keys of over {SINK:g} times their share"
    )
    sinks, control = (
        modality(torch.tensor(of_keys(table, NORM, kinds).to_numpy(copy=True)))
        for kinds in (KINDS, (CONTROL,))
    )
    both = counts[NO_OP] > 0 and counts[BROADCAST] > 0
    rejected = sinks < LEVEL
    verdict = decide(rejected and not control < LEVEL and both, total >= ENOUGH and not rejected)
    small, large = (per_pair(table, NORM, kind) for kind in KINDS)
    gap = NOT_MEASURABLE
    if small is not None and large is not None:
        gap = median_interval(large - small)
    return Finding(
        "N7",
        statement,
        verdict,
        *gap,
        unit="log of the value norm, broadcast less no-op sinks",
        control=f"Silverman's test of a single mode: p {_p(sinks)} for sinks, {_p(control)} for "
        f"random keys of the same heads; they add to their heads' outputs: {_shares(table)}",
        pairs=int(table.pair.nunique()),
    )


def _p(value: float) -> str:
    return "not measurable" if value != value else f"{value:.3f}"


def _shares(table: pd.DataFrame) -> str:
    found = {kind: per_pair(table, OUTPUT_SHARE, kind) for kind in (*KINDS, CONTROL)}
    return ", ".join(
        f"{kind} {'none' if v is None else as_text(median_interval(v), 3, '-')}"
        for kind, v in found.items()
    )


def _low_rank(table: pd.DataFrame) -> Finding:
    statement = "Broadcast sinks make their heads' outputs of low rank"
    found = {kind: per_pair(table, RANK, kind) for kind in (BROADCAST, NO_OP, NONE)}
    broadcast, rest = found[BROADCAST], found[NONE]
    if broadcast is None or rest is None:
        return _nothing(table, statement, "effective rank")
    gap = median_interval(broadcast - rest)
    words = ", ".join(
        f"{kind} {as_text(median_interval(values), 1, '-')}"
        for kind, values in found.items()
        if values is not None
    )
    return Finding(
        "N7",
        statement,
        is_below_zero(gap),
        *gap,
        unit="effective rank, heads with broadcast sinks less heads without sinks",
        control=f"heads by their sinks: {words}",
        pairs=len(broadcast),
    )


def _removing(table: pd.DataFrame) -> Finding:
    statement = "Removing no-op sinks changes nothing, and removing broadcast sinks does"
    if "mode" not in table:
        return _nothing(table, statement, "change of view 2's points")
    found = {(kind, mode): removal_contrast(table, kind, mode) for kind in KINDS for mode in MODES}
    no_op, broadcast = found[NO_OP, "zero"], found[BROADCAST, "zero"]
    words = "; ".join(
        f"{kind} sinks, {mode}: {as_text(c.effect, 4)}, over as many random keys "
        f"{as_text(c.over_count, 4)}, over random keys of equal mass {as_text(c.over_mass, 4)}"
        for (kind, mode), c in found.items()
        if c is not None
    )
    if no_op is None or broadcast is None:
        return _nothing(table, statement, "change of view 2's points", words)
    holds = [not no_op.over_count.low > 0, broadcast.over_count.low > 0]
    return Finding(
        "N7",
        statement,
        decide(all(holds), not any(holds)),
        *broadcast.over_count,
        unit="change of view 2's points in the scene's unit, broadcast sinks zeroed less as many "
        "random keys",
        control=words,
        pairs=int(table.pair.nunique()),
    )


def _nothing(table: pd.DataFrame, statement: str, unit: str, words: str = "") -> Finding:
    why = words or "there are no sinks of the kinds that this asks for"
    return not_measurable("N7", statement, unit, why, int(table.pair.nunique()))
