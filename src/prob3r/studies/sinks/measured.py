"""The sinks of a model and their kinds, what they write, and what removing them changes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import norm_factor
from prob3r.measures.scenes import scene_errors
from prob3r.measures.tokens import Sinks, random_order, with_controls
from prob3r.measures.values import Written, written
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.edits import Edit, Knockout
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair, Views

NO_OP_NORM = 0.5  # of the median value norm of the head

NO_OP, BROADCAST = KINDS = ("no-op", "broadcast")
CONTROL, NONE = "control key", "no sink"
"""What else is measured: a random key for each sink, and heads without sinks."""

MODES = ("mask", "zero")
NORM, OUTPUT_SHARE, RANK, CHANGE = "value norm", "output share", "output rank", "change"

Key = tuple[str, int, int]
"""A sublayer, a head, and a key."""


class Removal(NamedTuple):
    """Which sinks are cut or what stands in their place, and how."""

    kind: str
    mode: str
    cut: str


@dataclass(frozen=True)
class SinkKinds:
    """The sinks of a model.

    Attributes:
        kinds: The kind of each sink.
        controls: A random key of the same head for each sink, which is no sink.
        sinks: Where they are.
    """

    kinds: Mapping[Key, str]
    controls: Mapping[Key, Key]
    sinks: Sinks

    @classmethod
    def of(cls, model: Model, pairs: Pairs, count: int, batch: int) -> "SinkKinds":
        """Return the sinks over a sample of the pairs, and their kinds."""
        device = next(model.parameters()).device
        sinks = Sinks.find(model, pairs, count, batch)
        norms: dict[Key, list[Tensor]] = defaultdict(list)
        for pair in sampled_batches(pairs, count, batch, device):
            found = written(model, pair, trunk(model).attention(2))
            for key in _keys(sinks):
                norms[key].append(_of(found, key).norm)
        middle = {key: float(torch.cat(parts).median()) for key, parts in norms.items()}
        kinds = {key: NO_OP if norm < NO_OP_NORM else BROADCAST for key, norm in middle.items()}
        generator = torch.Generator().manual_seed(0)
        controls: dict[Key, Key] = {}
        for site, head, number in kinds:
            free = (~sinks.found[site][head]).nonzero()[:, 0].tolist()
            if free:
                drawn = free[int(torch.randint(len(free), (1,), generator=generator))]
                controls[site, head, number] = (site, head, drawn)
        return cls(kinds, controls, sinks)

    def of_kind(self, kind: str) -> dict[str, Bool[Tensor, "k m"]]:
        """Return the keys of a kind, by sublayer."""
        found = {site: torch.zeros_like(keys) for site, keys in self.sinks.found.items()}
        for (site, head, key), own in self.kinds.items():
            if own == kind:
                found[site][head, key] = True
        return {site: keys for site, keys in found.items() if keys.any()}


def _keys(sinks: Sinks) -> list[Key]:
    return [
        (site, head, key)
        for site, keys in sinks.found.items()
        for head, key in keys.nonzero().tolist()
    ]


class _OfKey(NamedTuple):
    """The value norm of one key, and its share of the output, pair by pair."""

    norm: Float[Tensor, " b"]
    share: Float[Tensor, " b"]


def _of(found: Mapping[str, Written], key: Key) -> _OfKey:
    site, head, number = key
    return _OfKey(found[site].norm[:, head, number].cpu(), found[site].share[:, head, number].cpu())


def writes(found: Mapping[str, Written], known: SinkKinds) -> pd.DataFrame:
    """Return a row for each pair and value of every sink, its control key and its head."""
    parts = []

    def add(kind: str, key: Key, metric: str, values: Tensor) -> None:
        site = Site.parse(key[0])
        about = {"kind": kind, "sublayer": site.sublayer, "block": site.block, "head": key[1]}
        rows = {"pair": range(len(values)), "key": key[2], "metric": metric}
        parts.append(pd.DataFrame(about | rows | {"value": values.cpu().numpy()}))

    for key, kind in known.kinds.items():
        own = {kind: key} | ({CONTROL: known.controls[key]} if key in known.controls else {})
        for name, which in own.items():
            values = _of(found, which)
            add(name, which, NORM, values.norm.log())
            add(name, which, OUTPUT_SHARE, values.share)
    for site, what in found.items():
        for head, rank in enumerate(what.rank.unbind(1)):
            kinds = {kind for (s, h, _), kind in known.kinds.items() if (s, h) == (site, head)}
            add(_kind_of_head(kinds), (site, head, -1), RANK, rank)
    return pd.concat(parts, ignore_index=True)


def _kind_of_head(kinds: set[str]) -> str:
    """Return what a head is called: a broadcast sink outweighs a no-op sink."""
    return BROADCAST if BROADCAST in kinds else NO_OP if kinds else NONE


def removals(
    found: Mapping[str, Written], pair: Pair, known: SinkKinds
) -> dict[Removal, list[Edit]]:
    """Return the removal of the sinks of every kind, and of their controls, in both modes."""
    variants: dict[Removal, list[Edit]] = defaultdict(list)
    for kind in KINDS:
        for site, keys in known.of_kind(kind).items():
            mass = found[site].mass
            chosen = keys.to(mass.device).expand(mass.shape)
            every = known.sinks.found[site].to(mass.device).expand(mass.shape)
            order = random_order(pair, site, tuple(mass.shape[1:]))
            heads = keys.any(-1).nonzero()[:, 0].tolist()
            for cut, mask in with_controls(chosen, ~every, mass, order).items():
                for mode in MODES:
                    if mask[:, heads].any():
                        edit = Knockout(site, mode=mode, heads=heads, keys=mask[:, heads])
                        variants[Removal(kind, mode, cut)].append(edit)
    return dict(variants)


def changes(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
    """Return how far view 2's points moved, in the unit of the scene, beside the errors."""
    unit = norm_factor(clean.points, views.valid)
    moved = (output.points[1] - clean.points[1]).norm(dim=-1).mean((1, 2))
    return {CHANGE: moved / unit, **scene_errors(output, views)}
