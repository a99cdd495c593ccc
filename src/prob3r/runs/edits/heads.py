"""Edits of attention: edges cut, heads switched off, maps replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PatchMatches
from prob3r.models.sites import HEADS, Site
from prob3r.runs.edits.changes import (
    Change,
    CutEdges,
    GivenMap,
    GivenOutput,
    MaskedEdges,
    ZeroedEdges,
)
from prob3r.runs.edits.edit import Edit, Setting, Tokens
from prob3r.runs.edits.means import Means

_CUTS: Mapping[str, type[CutEdges]] = {"mask": MaskedEdges, "zero": ZeroedEdges}


@dataclass(frozen=True, eq=False)
class Knockout(Edit):
    """Cuts attention edges, from some queries to some keys in some heads.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        mode: `mask` sets the logits to minus infinity, so that the attention that is left sums to
            one again; a query that keeps no key gets nothing from that head, and where that is so
            in all heads the sublayer adds nothing for it. `zero` sets the probabilities to zero
            and leaves the others as they are.
        heads: All by default.
        queries: The tokens whose attention is cut; all by default.
        keys: The tokens that they no longer see; all by default. `view(1)`, `token("camera")` and
            other selections choose them by view and by name; sites without any are left alone.
    """

    mode: str = field(default="mask", kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    queries: Tokens | None = field(default=None, kw_only=True)
    keys: Tokens | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site; see `Edit.bind`."""
        if self.mode not in _CUTS:
            raise self.error(f"has mode '{self.mode}'; it must be mask or zero")
        changes: list[Change] = []
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            queries = self.mask(self.queries, setting.queries(site), rows, heads, setting)
            keys = self.mask(self.keys, setting.keys(site), rows, heads, setting)
            if queries.any() and keys.any():
                changes.append(_CUTS[self.mode](str(site), rows, heads, queries, keys))
        return self.touching(changes)


@dataclass(frozen=True, eq=False)
class HeadAblation(Edit):
    """Replaces the output of heads, before the sublayer's projection.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        mode: `zero`, `mean` (over a data set) or `resample` (from another scene).
        heads: All by default.
        source: For `mean`, what `head_means` computed; for `resample`, a trace of another scene in
            which `SITE.heads` is recorded, of one scene or of as many as the edit concerns.
    """

    mode: str = field(default="zero", kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    source: Means | Mapping[str, Tensor] | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site; see `Edit.bind`."""
        changes: list[Change] = []
        if self.mode not in ("zero", "mean", "resample"):
            raise self.error(f"has mode '{self.mode}'; it must be zero, mean or resample")
        if isinstance(self.source, Means):
            self.source.check(setting.model)
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            every = self.mask(None, setting.queries(site), rows, heads, setting)
            values = self._values(site, rows, setting)
            values = values if values.shape[1] == 1 else values[:, heads]
            changes.append(GivenOutput(str(site), rows, heads, every, values))
        return changes

    def _values(self, site: Site, rows: Tensor, setting: Setting) -> Float[Tensor, "p1 k1 n1 e1"]:
        """Return the output of every head; axes of size 1 stand for all."""
        if self.mode == "zero":
            return torch.zeros(1, 1, 1, 1, device=setting.device)
        if self.mode == "mean":
            if not isinstance(self.source, Means):
                raise self.error("has mode mean, and needs `source`, the means of this model")
            return self.source[str(site.residual)].to(setting.device)[None, :, None]
        values = recorded(self, self.source, site.read(HEADS), rows, setting)
        heads, width, n = setting.heads(site), setting.width(site), len(setting.queries(site))
        self.fits("source", values, (len(rows), heads, n, width // heads))
        return values


@dataclass(frozen=True, eq=False)
class Attention(Edit):
    """Replaces an attention map by a given one.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        probs: `(scenes, heads, queries, keys)`, each row summing to one; an axis of size 1 stands
            for all, except that of the keys.
        heads: The heads that get it; all by default.
        queries: The tokens that get it; all by default.
    """

    probs: Float[Tensor, "p1 j1 n1 m"]
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    queries: Tokens | None = field(default=None, kw_only=True)

    @classmethod
    def oracle(cls, site: str, matches: PatchMatches, keys: int, **others: Any) -> "Attention":
        """Return the edit that makes every co-visible patch look at its true match alone.

        Args:
            site: Cross-attention sublayers of view 2.
            matches: The true matches of the scenes concerned.
            keys: How many patches view 1 has.
            others: `heads` and `scenes`.
        """
        probs = torch.nn.functional.one_hot(matches.match.clamp(0, keys - 1), keys).float()
        return cls(site, probs[:, None], queries=matches.visible[:, None], **others)

    @classmethod
    def scrambled(
        cls,
        site: str,
        matches: PatchMatches,
        keys: int,
        generator: torch.Generator,
        **others: Any,
    ) -> "Attention":
        """Return the control of `oracle`: each patch looks at the match of another one."""
        shuffled = matches.match.clone()
        for row, visible in zip(shuffled, matches.visible, strict=True):
            found = row[visible]
            order = torch.randperm(len(found), generator=generator).to(found.device)
            row[visible] = found[order]
        return cls.oracle(site, PatchMatches(shuffled, matches.visible), keys, **others)

    @classmethod
    def uniform(cls, site: str, keys: int, **others: Any) -> "Attention":
        """Return the edit that makes patches look at all `keys` alike."""
        return cls(site, torch.full((1, 1, 1, keys), 1 / keys), **others)

    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site; see `Edit.bind`."""
        changes: list[Change] = []
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            axis, m = setting.queries(site), len(setting.keys(site))
            probs = self.probs.to(setting.device)
            if probs.shape[-1] != m:
                raise self.error(f"has a map over {probs.shape[-1]} keys, and there are {m}")
            self.fits("map", probs, (len(rows), len(heads), len(axis), m))
            if not torch.allclose(probs.sum(-1), probs.new_ones(()), atol=1e-2):
                raise self.error("has a map whose rows don't sum to one")
            queries = self.mask(self.queries, axis, rows, heads, setting)
            changes.append(GivenMap(str(site), rows, heads, queries, probs))
        return changes


def recorded(
    edit: Edit, source: object, site: Site, rows: Tensor, setting: Setting
) -> Float[Tensor, "p1 ..."]:
    """Return a record of a trace; raise Prob3rError if there is none or it cannot fit."""
    if not isinstance(source, Mapping):
        raise edit.error(f"needs `source`, a trace with '{site}' recorded")
    if str(site) not in source:
        raise edit.error(f"finds no '{site}' in its source; record it there")
    record = torch.Tensor(source[str(site)]).to(setting.device)
    if record.shape[0] not in (1, len(rows)):
        raise edit.error(
            f"has a source of {record.shape[0]} scenes for {len(rows)}; give one, or as many"
        )
    return record
