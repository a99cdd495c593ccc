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
    """Cuts attention from some queries to some keys in some heads.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        mode: `mask` sets the logits to minus infinity. The remaining attention sums to one again.
            A query without any key gets nothing from that head. If this is so in all heads, the
            sublayer adds nothing to that query. `zero` sets the probabilities to zero and does
            not change the others.
        heads: The heads. The default is all.
        queries: The tokens whose attention is cut. The default is all.
        keys: The tokens that they no longer attend to. The default is all. Selections such as
            `view(1)` and `token("camera")` choose by view and by name. A site without such a token
            is not changed.
    """

    mode: str = field(default="mask", kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    queries: Tokens | None = field(default=None, kw_only=True)
    keys: Tokens | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        if self.mode not in _CUTS:
            raise self.error(f"has mode '{self.mode}'; it must be mask or zero")
        changes: list[Change] = []
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            queries = self.mask(self.queries, setting.queries(site), rows, heads, setting)
            keys = self.mask(self.keys, setting.keys(site), rows, heads, setting)
            if queries.any() and keys.any():
                changes.append(_CUTS[self.mode](str(site), rows, heads, queries, keys))
        return self.nonempty(changes)


@dataclass(frozen=True, eq=False)
class HeadAblation(Edit):
    """Replaces the output of heads, before the sublayer's projection.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        mode: `zero`, `mean` (over a data set) or `resample` (from another scene).
        heads: The heads. The default is all.
        source: For `mean`, the result of `head_means`. For `resample`, a trace of another scene
            that holds `SITE.heads`, for one scene or for as many as the edit changes.
    """

    mode: str = field(default="zero", kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    source: Means | Mapping[str, Tensor] | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        changes: list[Change] = []
        if self.mode not in ("zero", "mean", "resample"):
            raise self.error(f"has mode '{self.mode}'; it must be zero, mean or resample")
        if isinstance(self.source, Means):
            self.source.check(setting.weights)
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            every = self.mask(None, setting.queries(site), rows, heads, setting)
            values = self._values(site, rows, setting)
            values = values if values.shape[1] == 1 else values[:, heads]
            changes.append(GivenOutput(str(site), rows, heads, every, values))
        return changes

    def _values(self, site: Site, rows: Tensor, setting: Setting) -> Float[Tensor, "p1 k1 n1 e1"]:
        """Return the output of every head. An axis of size 1 stands for all."""
        if self.mode == "zero":
            return torch.zeros(1, 1, 1, 1, device=setting.device)
        if self.mode == "mean":
            if not isinstance(self.source, Means):
                raise self.error("has mode mean and needs `source`, the means of this model")
            return self.source[str(site.residual)].to(setting.device)[None, :, None]
        values = recorded(self, self.source, site.read(HEADS), rows, setting)
        heads, width, n = setting.heads(site), setting.width(site), len(setting.queries(site))
        self.fits("source", values, (len(rows), heads, n, width // heads))
        return values


@dataclass(frozen=True, eq=False)
class Attention(Edit):
    """Replaces an attention map by a given map.

    Attributes:
        site: Attention sublayers, such as `dec2.3.cross_attn`.
        probs: The map `(scenes, heads, queries, keys)`. Each row sums to one. An axis of size 1
            stands for all, except the axis of the keys.
        heads: The heads that get the map. The default is all.
        queries: The tokens that get the map. The default is all.
        keys_of: The view whose patches the map is over. Rows and `queries` are then the patches of
            the site's own view, and all other keys get no attention. By default the map is over all
            tokens.
    """

    probs: Float[Tensor, "p1 j1 n1 m"]
    heads: Sequence[int] | None = field(default=None, kw_only=True)
    keys_of: int | None = field(default=None, kw_only=True)
    queries: Tokens | None = field(default=None, kw_only=True)

    @classmethod
    def oracle(cls, site: str, matches: PatchMatches, keys: int, **others: Any) -> "Attention":
        """Return the edit that makes every co-visible patch attend to its true match alone.

        Args:
            site: Sublayers with attention from view 2 to view 1.
            matches: The true matches of the scenes that change.
            keys: The number of patches of view 1.
            others: `heads` and `scenes`.
        """
        probs = torch.nn.functional.one_hot(matches.match.clamp(0, keys - 1), keys).float()
        return cls(site, probs[:, None], queries=matches.visible[:, None], keys_of=1, **others)

    @classmethod
    def scrambled(
        cls,
        site: str,
        matches: PatchMatches,
        keys: int,
        generator: torch.Generator,
        **others: Any,
    ) -> "Attention":
        """Return the control of `oracle`: each patch attends to the match of another patch."""
        shuffled = matches.match.clone()
        for row, visible in zip(shuffled, matches.visible, strict=True):
            found = row[visible]
            order = torch.randperm(len(found), generator=generator).to(found.device)
            row[visible] = found[order]
        return cls.oracle(site, PatchMatches(shuffled, matches.visible), keys, **others)

    @classmethod
    def uniform(cls, site: str, keys: int, **others: Any) -> "Attention":
        """Return the edit that makes patches attend to all `keys` equally."""
        return cls(site, torch.full((1, 1, 1, keys), 1 / keys), **others)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        changes: list[Change] = []
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            axis, m = setting.queries(site), len(setting.keys(site))
            probs, wanted = self._over_all_tokens(site, setting)
            if probs.shape[-1] != m:
                raise self.error(f"has a map over {probs.shape[-1]} keys, and there are {m}")
            self.fits("map", probs, (len(rows), len(heads), len(axis), m))
            if not torch.allclose(probs.sum(-1), probs.new_ones(()), atol=1e-2):
                raise self.error("has a map whose rows don't sum to one")
            queries = self.mask(wanted, axis, rows, heads, setting)
            changes.append(GivenMap(str(site), rows, heads, queries, probs))
        return changes

    def _over_all_tokens(self, site: Site, setting: Setting) -> tuple[Tensor, Tokens | None]:
        """Return the map and the queries over all tokens, with special tokens and other views."""
        probs = self.probs.to(setting.device)
        if self.keys_of is None:
            return probs, self.queries
        queries, keys = setting.queries(site), setting.keys(site)
        views = [view for view, _, _ in keys.parts]
        if self.keys_of not in views:
            raise self.error(
                f"has a map over view {self.keys_of}, which {site.residual} does not attend to"
            )
        (rows,), columns = queries.patches, keys.patches[views.index(self.keys_of)]
        for what, size, span in (("queries", 2, rows), ("keys", 3, columns)):
            if probs.shape[size] != span.stop - span.start:
                raise self.error(
                    f"has a map over {probs.shape[size]} {what}, and there are "
                    f"{span.stop - span.start}"
                )
        # This edit does not change the rows of special tokens, but they must sum to one too.
        whole = probs.new_zeros(*probs.shape[:2], len(queries), len(keys))
        whole[..., columns.start] = 1
        whole[:, :, rows] = 0
        whole[:, :, rows, columns] = probs
        wanted = torch.ones(1, 1, len(queries), dtype=torch.bool, device=setting.device)
        if isinstance(self.queries, Tensor):
            wanted = self.queries.new_zeros(*self.queries.shape[:-1], len(queries))
            wanted[..., rows] = self.queries
        return whole, wanted


def recorded(
    edit: Edit, source: object, site: Site, rows: Tensor, setting: Setting
) -> Float[Tensor, "p1 ..."]:
    """Return a record of a trace. Raise Prob3rError if it is missing or does not fit."""
    if not isinstance(source, Mapping):
        raise edit.error(f"needs `source`, a trace with '{site}' recorded")
    if str(site) not in source:
        raise edit.error(f"finds no '{site}' in its source; record it there")
    record = torch.Tensor(source[str(site)]).to(setting.device)
    if record.shape[0] not in (1, len(rows)):
        raise edit.error(
            f"has a source of {record.shape[0]} scenes and changes {len(rows)} scenes; give a "
            "source of one scene, or of as many as change"
        )
    return record
