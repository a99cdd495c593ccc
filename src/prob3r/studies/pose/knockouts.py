"""What the study of the pose cuts, and the same cuts of random tokens.

What a scope means, and which mode it comes in, is defined in `pose.py`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.measures.tokens import (
    CUTS,
    READ,
    Carriers,
    Sinks,
    random_order,
    received_by,
    with_controls,
)
from prob3r.models import Model, Prediction
from prob3r.models.sites import HEADS, Site
from prob3r.runs.edits import Edit, HeadAblation, Knockout, Means, head_means
from prob3r.runs.sweep import errors_of, sweep
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Pairs, batches
from prob3r.scenes.views import Pair

HEAD, BLOCK, ALL, REST, ISOLATED = SCOPES = (
    "head",
    "block",
    "all sinks",
    "all but the sinks",
    "carriers",
)
OUTPUTS = "outputs"
"""The scope of heads' outputs that are replaced, which has no controls."""

STRENGTH = "strongest key"
"""The scope of what heads' strongest keys receive, where nothing is cut."""

MASK, ZERO = MODES = ("mask", "zero")
OUTPUT_MODES = ("zero", "mean", "resample")

ERRORS = ("rotation_error", "translation_error", "inner_shape_error", "pointmap_error2")
"""Of `errors_of`, those of view 2 that are kept."""


class Variant(NamedTuple):
    """What is cut; what does not tell variants of a scope apart is empty, or -1."""

    scope: str
    mode: str
    cut: str = ""
    sublayer: str = ""
    block: int = -1
    head: int = -1


@dataclass(frozen=True)
class Known:
    """What is known of a model before its pairs are cut.

    Attributes:
        sinks: Of its heads.
        means: Of its heads' outputs, or None if these are not to be replaced and neither single
            heads nor single blocks are to be cut.
    """

    sinks: Sinks
    means: Means | None

    @classmethod
    def of(cls, model: Model, pairs: Pairs, count: int, batch: int, each: bool) -> "Known":
        """Return what is known from a sample of the pairs.

        Args:
            model: Which is to be cut.
            pairs: Of the study.
            count: How many of them to use.
            batch: Pairs at a time.
            each: Whether heads and blocks are to be cut one by one.
        """
        device = next(model.parameters()).device
        few = (pair.to(device) for pair in batches(sample(pairs, count), count, batch))
        means = head_means(model, few) if each else None
        return cls(Sinks.find(model, pairs, count, batch), means)


@dataclass(frozen=True)
class Cut:
    """One variant, and how much it cuts, or keeps.

    Attributes:
        edits: What is done.
        tokens: How many keys of all heads, or tokens, in each pair.
        mass: The attention that these receive in the run without edits, mean over heads.
    """

    edits: Sequence[Edit]
    tokens: Int[Tensor, " b"]
    mass: Float[Tensor, " b"]


def knock_out(model: Model, pair: Pair, known: Known) -> pd.DataFrame:
    """Return what every variant does to every error, one row for each pair, variant and error.

    The columns are those of `Variant`; `sinks`, whether what is cut are sinks rather than keys that
    stand in for them; `tokens` and `mass` of `Cut`; and `metric`, `clean` and `value`: the error
    without the cut, and the change that it makes. Pairs in which a variant has nothing to cut have
    no row. For the scope `STRENGTH` the value is how often its uniform share a head's strongest key
    takes in the pair, and `sinks` whether that head has any.
    """
    outputs = [f"dec2.*.{kind}.{HEADS}" for kind in ("self_attn", "cross_attn")]
    run = trace(model, pair, [*READ, *outputs] if known.means else READ, output=False)
    carriers = Carriers.of(model, run, known.sinks)
    cuts = _sink_cuts(run, pair, known, carriers) | isolated(run, pair, carriers)
    if known.means:
        cuts |= _outputs(run, known.means)
    variants = {variant: cut.edits for variant, cut in cuts.items()}
    table = sweep(model, pair.named(()), variants, _kept)
    chosen = table.pop("variant").tolist()
    what = pd.DataFrame(chosen, columns=Variant._fields).assign(sinks=bool(known.sinks))
    for column in ("tokens", "mass"):
        weight = {variant: getattr(cut, column).tolist() for variant, cut in cuts.items()}
        what[column] = [weight[v][row] for v, row in zip(chosen, table.pair, strict=True)]
    table["value"] = table.pop("effect")
    table = pd.concat([what, table], axis=1)
    return pd.concat([table[table.tokens > 0], _strengths(run, known.sinks)], ignore_index=True)


def _strengths(run: Trace, sinks: Sinks) -> pd.DataFrame:
    """Return the rows of `STRENGTH`; which key is a head's strongest is a matter of all pairs."""
    parts = []
    for site, top in sinks.strongest.items():
        parsed, received = Site.parse(site), run[f"{site}.received"]
        times = (received * top.to(received)).sum(-1) * received.shape[-1]
        for head, values in enumerate(times.unbind(1)):
            what = Variant(STRENGTH, "", "", parsed.sublayer, parsed.block or 0, head)._asdict()
            rows = {"pair": range(len(values)), "metric": "times its uniform share"}
            found = {"sinks": bool(sinks.found[site][head].any()), "value": values.cpu().numpy()}
            parts.append(pd.DataFrame(what | rows | found))
    return pd.concat(parts, ignore_index=True)


def _sink_cuts(run: Trace, pair: Pair, known: Known, carriers: Carriers) -> dict[Variant, Cut]:
    """Return the cuts of sinks, or of what stands in for them."""
    sinks = known.sinks
    masks = _masked(run, pair, sinks, carriers)
    heads = {
        (site, head)
        for site, keys in (sinks.found if sinks else sinks.strongest).items()
        for head in keys.any(-1).nonzero()[:, 0].tolist()
    }
    groups: dict[Variant, list[tuple[str, int]]] = defaultdict(list)
    for site, head in sorted(heads):
        parsed = Site.parse(site)
        assert parsed.block is not None  # attention is that of a block
        if known.means:
            groups[Variant(HEAD, "", "", parsed.sublayer, parsed.block, head)].append((site, head))
            groups[Variant(BLOCK, "", block=parsed.block)].append((site, head))
        groups[Variant(ALL, "")].append((site, head))
        groups[Variant(REST, "")].append((site, head))
    cuts = {}
    for group, members in groups.items():
        of = {site: [head for s, head in members if s == site] for site, _ in members}
        for cut in CUTS:
            keys = {site: masks[site][cut][:, chosen] for site, chosen in of.items()}
            for mode in MODES if sinks else (MASK,):
                variant = group._replace(mode=mode, cut=cut)
                cuts[variant] = _cut_keys(run, keys, of, mode, group.scope == REST)
    return cuts


def _cut_keys(
    run: Trace,
    keys: Mapping[str, Bool[Tensor, "b j m"]],
    heads: Mapping[str, list[int]],
    mode: str,
    kept: bool,
) -> Cut:
    """Return the cut of keys of some heads by sublayer, or of all other keys of these heads."""
    edits = [
        Knockout(site, mode=mode, heads=heads[site], keys=~chosen if kept else chosen)
        for site, chosen in keys.items()
        if chosen.any()
    ]
    mass = torch.cat(
        [(run[f"{s}.received"][:, heads[s]] * chosen).sum(-1) for s, chosen in keys.items()], 1
    )
    tokens = torch.cat([chosen.sum(-1) for chosen in keys.values()], 1).sum(1)
    return Cut(edits, tokens, mass.mean(1))


def _masked(
    run: Trace, pair: Pair, sinks: Sinks, carriers: Carriers
) -> dict[str, dict[str, Bool[Tensor, "b k m"]]]:
    """Return the keys of every sublayer's heads to be cut, and their controls."""
    masks = {}
    for site, keys in (sinks.found if sinks else sinks.strongest).items():
        received = run[f"{site}.received"]
        chosen = keys.to(received.device).expand(received.shape)
        carrier = carriers.view1 if site.endswith("cross_attn") else carriers.view2
        free = ~(carrier[:, None] | chosen.any(1, keepdim=True)).expand(received.shape)
        order = random_order(pair, site, tuple(received.shape[1:]))
        masks[site] = with_controls(chosen, free, received, order)
    return masks


def isolated(run: Trace, pair: Pair, carriers: Carriers) -> dict[Variant, Cut]:
    """Return the isolation of all carriers, and of their controls, in both modes."""
    received = [received_by(run, view) for view in (1, 2)]
    masks = [
        with_controls(
            chosen, ~chosen, weight, random_order(pair, f"view {view}", tuple(weight.shape[1:]))
        )
        for view, (chosen, weight) in enumerate(zip(carriers, received, strict=True), 1)
    ]
    cuts = {}
    for mode in MODES:
        for cut in CUTS:
            one, two = (mask[cut] for mask in masks)
            edits = [*_unread(one, mode), *_alone(two, mode)]
            if edits:
                mass = (received[0] * one).sum(1) + (received[1] * two).sum(1)
                tokens = one.sum(1) + two.sum(1)
                cuts[Variant(ISOLATED, mode, cut)] = Cut(edits, tokens, mass)
    return cuts


def _unread(tokens: Bool[Tensor, "b m"], mode: str) -> list[Edit]:
    """Return what keeps view 2 from reading tokens of view 1, if there are any."""
    return [Knockout("dec2.*.cross_attn", mode=mode, keys=tokens[:, None])] if tokens.any() else []


def _alone(tokens: Bool[Tensor, "b n"], mode: str) -> list[Edit]:
    """Return what keeps tokens of view 2 from reading anything and from being read, if any."""
    if not tokens.any():
        return []
    chosen = tokens[:, None]
    return [
        Knockout("dec2.*.self_attn", mode=mode, keys=chosen),
        Knockout("dec1.*.cross_attn", mode=mode, keys=chosen),
        Knockout("dec2.*.self_attn", mode=mode, queries=chosen),
        Knockout("dec2.*.cross_attn", mode=mode, queries=chosen),
    ]


def _outputs(run: Trace, means: Means) -> dict[Variant, Cut]:
    """Return the replacement of the outputs of all heads of a sublayer, in every mode."""
    outputs = {name: torch.Tensor(r) for name, r in run.items() if name.endswith(f".{HEADS}")}
    others = {name: record.roll(1, 0) for name, record in outputs.items()}
    cuts = {}
    for name, (pairs, _, tokens, _) in ((name, r.shape) for name, r in outputs.items()):
        site = name.removesuffix(f".{HEADS}")
        parsed = Site.parse(site)
        sources = {"zero": None, "mean": means, "resample": others}
        if pairs < 2:
            del sources["resample"]  # there is no other pair to take outputs from
        for mode, source in sources.items():
            variant = Variant(OUTPUTS, mode, "", parsed.sublayer, parsed.block or 0)
            edit = HeadAblation(site, mode=mode, source=source)
            cuts[variant] = Cut([edit], torch.full((pairs,), tokens), torch.ones(pairs))
    return cuts


def _kept(output: Prediction, pair: Pair, clean: Prediction) -> dict[str, Tensor]:
    """Return the errors of view 2 that the study reports."""
    errors = errors_of(output, pair, clean)
    return {name.rstrip("2"): errors[name] for name in ERRORS}
