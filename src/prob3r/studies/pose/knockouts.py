"""The cuts of the study of the pose, and the same cuts of random tokens.

The scopes and their modes are defined in `pose/__init__.py`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.measures.scenes import pair_errors
from prob3r.measures.tokens import (
    CUTS,
    MarkedTokens,
    Sinks,
    attention_mass,
    random_order,
    token_sites,
    with_controls,
)
from prob3r.models import Model, Prediction
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import HEADS, Site
from prob3r.runs.donated import Donated
from prob3r.runs.edits import Edit, HeadAblation, Knockout, Means, head_means
from prob3r.runs.sweep import spread, sweep
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair

HEAD, BLOCK, ALL, REST, ISOLATED = SCOPES = (
    "head",
    "block",
    "all sinks",
    "all but the sinks",
    "carriers",
)
OUTPUTS = "outputs"
"""The scope in which outputs of heads are replaced; it has no controls."""

STRENGTH = "strongest key"
"""The scope of rows on the attention to heads' strongest keys; nothing is cut."""

MASK, ZERO = MODES = ("mask", "zero")
OUTPUT_MODES = ("zero", "mean", "resample")

ERRORS = ("rotation_error", "translation_error", "shape_error", "pointmap_error2")
"""Of `pair_errors`, those of view 2 that are kept."""


class Variant(NamedTuple):
    """A cut; a field that is the same for all variants of a scope is empty, or -1."""

    scope: str
    mode: str
    cut: str = ""
    sublayer: str = ""
    block: int = -1
    head: int = -1


@dataclass(frozen=True)
class SinksAndMeans:
    """What is measured on a model before its pairs are cut.

    Attributes:
        sinks: The sinks of its heads.
        means: The means of its heads' outputs; None if outputs are not replaced, and single heads
            and blocks are not cut.
    """

    sinks: Sinks
    means: Means | None

    @classmethod
    def of(cls, model: Model, pairs: Pairs, count: int, batch: int, each: bool) -> "SinksAndMeans":
        """Measure a model on a sample of the pairs.

        Args:
            model: The model that will be cut.
            pairs: The pairs of the study.
            count: Number of pairs to use.
            batch: Pairs in a batch.
            each: Whether heads and blocks will be cut one by one.
        """
        device = next(model.parameters()).device
        means = head_means(model, sampled_batches(pairs, count, batch, device)) if each else None
        return cls(Sinks.find(model, pairs, count, batch), means)


@dataclass(frozen=True)
class WeighedCut:
    """The edits of one variant, and how much they cut, or keep.

    Attributes:
        edits: The edits that make the cut.
        tokens: Number of keys of all heads, or of tokens, in each pair.
        mass: Attention that these receive in the run without edits, averaged over heads.
    """

    edits: Sequence[Edit]
    tokens: Int[Tensor, " b"]
    mass: Float[Tensor, " b"]


def knock_out(model: Model, pair: Pair, known: SinksAndMeans) -> pd.DataFrame:
    """Return the effect of every variant on every error, a row for each pair, variant and error.

    The columns are those of `Variant`; `sinks`: whether the cut keys are sinks and not keys that
    replace them; `tokens` and `mass` of `WeighedCut`; and `metric`, `clean` (the error without the
    cut) and `value` (the change by the cut). Pairs in which a variant has nothing to cut have no
    row. For the scope `STRENGTH` the value is the attention to a head's strongest key in the pair,
    as a multiple of its uniform share, and `sinks` tells whether that head has sinks.
    """
    sites = token_sites(model)
    outputs = [str(site.read(HEADS)) for site in trunk(model).attention(2)]
    run = trace(model, pair, [*sites, *outputs] if known.means else sites, output=False)
    marked = MarkedTokens.of(model, pair, run, known.sinks)
    cuts = _sink_cuts(run, pair, known, marked) | isolations(model, run, pair, marked)
    if known.means:
        cuts |= _outputs(run, pair, known.means)
    variants = {variant: cut.edits for variant, cut in cuts.items()}
    table = sweep(model, pair.named(()), variants, _kept)
    chosen = table.variant.tolist()
    table = spread(table).assign(sinks=bool(known.sinks))
    for column in ("tokens", "mass"):
        weight = {variant: getattr(cut, column).tolist() for variant, cut in cuts.items()}
        table[column] = [weight[v][row] for v, row in zip(chosen, table.pair, strict=True)]
    table["value"] = table.pop("effect")
    return pd.concat([table[table.tokens > 0], _strengths(run, known.sinks)], ignore_index=True)


def _strengths(run: Trace, sinks: Sinks) -> pd.DataFrame:
    """Return the rows of `STRENGTH`; which key is a head's strongest is a matter of all pairs."""
    parts = []
    for site, top in sinks.strongest.items():
        parsed, mass = Site.parse(site), _mass(run, site)
        times = (mass * top.to(mass)).sum(-1) * mass.shape[-1]
        for head, values in enumerate(times.unbind(1)):
            what = Variant(STRENGTH, "", "", parsed.sublayer, parsed.block or 0, head)._asdict()
            rows = {"pair": range(len(values)), "metric": "times its uniform share"}
            found = {"sinks": bool(sinks.found[site][head].any()), "value": values.cpu().numpy()}
            parts.append(pd.DataFrame(what | rows | found))
    return pd.concat(parts, ignore_index=True)


def _sink_cuts(
    run: Trace, pair: Pair, known: SinksAndMeans, marked: MarkedTokens
) -> dict[Variant, WeighedCut]:
    """Return the cuts of sinks, or of what stands in for them."""
    sinks = known.sinks
    masks = _masked(run, pair, sinks, marked)
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
) -> WeighedCut:
    """Return the cut of keys of some heads by sublayer, or of all other keys of these heads."""
    edits = [
        Knockout(site, mode=mode, heads=heads[site], keys=~chosen if kept else chosen)
        for site, chosen in keys.items()
        if chosen.any()
    ]
    mass = torch.cat(
        [(_mass(run, s)[:, heads[s]] * chosen).sum(-1) for s, chosen in keys.items()], 1
    )
    tokens = torch.cat([chosen.sum(-1) for chosen in keys.values()], 1).sum(1)
    return WeighedCut(edits, tokens, mass.mean(1))


def _masked(
    run: Trace, pair: Pair, sinks: Sinks, marked: MarkedTokens
) -> dict[str, dict[str, Bool[Tensor, "b k m"]]]:
    """Return the keys of every sublayer's heads to be cut, and their controls."""
    masks = {}
    for site, keys in (sinks.found if sinks else sinks.strongest).items():
        mass = _mass(run, site)
        chosen = keys.to(mass.device).expand(mass.shape)
        taken = marked.among(Site.parse(site))
        free = ~(taken[:, None] | chosen.any(1, keepdim=True)).expand(mass.shape)
        order = random_order(pair, site, tuple(mass.shape[1:]))
        masks[site] = with_controls(chosen, free, mass, order)
    return masks


def _mass(run: Trace, site: str) -> Float[Tensor, "b k m"]:
    """Return the attention mass of every key in every head of a sublayer."""
    return torch.Tensor(run[str(Site.parse(site).read("mass"))])


def isolations(
    model: Model, run: Trace, pair: Pair, marked: MarkedTokens
) -> dict[Variant, WeighedCut]:
    """Return the isolation of all marked tokens, and of their controls, in both modes."""
    masses = [attention_mass(model, pair, run, view) for view in (1, 2)]
    masks = [
        with_controls(
            chosen, ~chosen, mass, random_order(pair, f"view {view}", tuple(mass.shape[1:]))
        )
        for view, (chosen, mass) in enumerate(zip(marked, masses, strict=True), 1)
    ]
    cuts = {}
    for mode in MODES:
        for cut in CUTS:
            tokens = MarkedTokens(*(mask[cut] for mask in masks))
            edits = _isolation(trunk(model), tokens, mode)
            if edits:
                one, two = ((m * t).sum(1) for m, t in zip(masses, tokens, strict=True))
                count = tokens.view1.sum(1) + tokens.view2.sum(1)
                cuts[Variant(ISOLATED, mode, cut)] = WeighedCut(edits, count, one + two)
    return cuts


def _isolation(stack: Stack, tokens: MarkedTokens, mode: str) -> list[Edit]:
    """Return what isolates tokens.

    View 2 does not attend to those of view 1. Nothing attends to those of view 2, and they attend
    to nothing.
    """
    kinds = dict.fromkeys((site.view, site.sublayer) for v in (2, 1) for site in stack.attention(v))
    nothing = torch.zeros_like(tokens.view1)
    edits: list[Edit] = []
    for view, kind in kinds:
        site = Site(stack.name, view, None, kind)
        cut = tokens if view == 2 else tokens._replace(view1=nothing)
        keys = cut.among(site)
        if keys.any():
            edits.append(Knockout(_every_block(site), mode=mode, keys=keys[:, None]))
    if tokens.view2.any():
        own = [Site(stack.name, view, None, kind) for view, kind in kinds if view == 2]
        queries = tokens.view2[:, None]
        edits += [Knockout(_every_block(site), mode=mode, queries=queries) for site in own]
    return edits


def _every_block(site: Site) -> str:
    """Return the pattern of a kind of sublayer in all blocks of a stream."""
    return f"{site.stream}.*.{site.sublayer}"


def _outputs(run: Trace, pair: Pair, means: Means) -> dict[Variant, WeighedCut]:
    """Return the replacement of the outputs of all heads of a sublayer, in every mode.

    `resample` takes each pair's outputs from a pair of another scene; a pair that has none in its
    batch is left out.
    """
    places = {name: Site.parse(name) for name in run}
    outputs = {name: torch.Tensor(run[name]) for name, p in places.items() if p.reading == HEADS}
    rows, others = Donated.of(pair, outputs)
    cuts = {}
    for name, record in outputs.items():
        site = places[name].residual
        pairs, _, tokens, _ = record.shape
        for mode, source in {"zero": None, "mean": means, "resample": others}.items():
            chosen = rows if mode == "resample" else list(range(pairs))
            if not chosen:
                continue
            subset = None if len(chosen) == pairs else chosen
            variant = Variant(OUTPUTS, mode, "", site.sublayer, site.block or 0)
            edit = HeadAblation(str(site), mode=mode, source=source, scenes=subset)
            count = torch.zeros(pairs, dtype=torch.long)
            count[chosen] = tokens
            cuts[variant] = WeighedCut([edit], count, torch.ones(pairs))
    return cuts


def _kept(output: Prediction, pair: Pair, clean: Prediction) -> dict[str, Tensor]:
    """Return the errors of view 2 that the study reports."""
    errors = pair_errors(output, pair)
    return {name.rstrip("2"): errors[name] for name in ERRORS}
