"""Edits of the residual stream, and transplants from another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prob3r.models.sites import Site, select
from prob3r.runs.edits.changes import Change, GivenOutput, GivenStream, Skipped
from prob3r.runs.edits.edit import Edit, Patches, Setting, attention_sites
from prob3r.runs.edits.heads import Attention, recorded


@dataclass(frozen=True, eq=False)
class Skip(Edit):
    """Makes a sublayer add nothing to the stream.

    Attributes:
        site: Residual sites, such as `dec2.3.mlp`.
        patches: Where it adds nothing; everywhere by default.
    """

    patches: Patches | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site; see `Edit.bind`."""
        changes: list[Change] = []
        for site in select(self.site, setting.model.sites()):
            if Site.parse(site).block is None:
                raise self.error(f"reaches '{site}', which is the input and no sublayer")
            rows = self.rows(setting)
            patches = self.mask(self.patches, setting.queries(site), rows, rows[:1], setting)
            changes.append(Skipped(site, rows, patches[:, 0]))
        return changes


@dataclass(frozen=True, eq=False)
class Patch(Edit):
    """Transplants from another run: a residual stream, a head's output or an attention map.

    Attributes:
        site: `dec2.3.mlp` for the stream after a sublayer, `dec2.3.cross_attn.heads` for the
            outputs of its heads, `dec2.3.cross_attn.probs` for its attention map.
        source: A trace in which the sites are recorded, of one pair or of as many as the edit
            concerns.
        patches: What is transplanted, by the patches of the stream or the queries of the
            attention; everything by default.
        heads: Of heads' outputs and maps; all by default.
    """

    source: Mapping[str, Tensor]
    patches: Patches | None = field(default=None, kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site; see `Edit.bind`."""
        stem, _, last = self.site.rpartition(".")
        if last == "probs":
            return self._maps(setting)
        if last == "heads":
            return self._outputs(stem, setting)
        if self.heads is not None:
            raise self.error("names heads, and a residual stream has none; write SITE.heads")
        changes: list[Change] = []
        for site in select(self.site, setting.model.sites()):
            rows, n = self.rows(setting), setting.queries(site)
            values = recorded(self, self.source, site, rows, setting)
            self.fits("source", values, (len(rows), n, setting.model.width(site)))
            patches = self.mask(self.patches, n, rows, rows[:1], setting)
            changes.append(GivenStream(site, rows, patches[:, 0], values))
        return changes

    def _maps(self, setting: Setting) -> list[Change]:
        changes: list[Change] = []
        for site in attention_sites(setting.model, self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            probs = recorded(self, self.source, site, rows, setting)
            edges = setting.queries(site), setting.keys(site)
            self.fits("source", probs, (len(rows), setting.model.heads(site), *edges))
            chosen: dict[str, Any] = {
                "heads": self.heads,
                "queries": self.patches,
                "pairs": self.pairs,
            }
            changes += Attention(site, probs[:, heads], **chosen).bind(setting)
        return changes

    def _outputs(self, stem: str, setting: Setting) -> list[Change]:
        changes: list[Change] = []
        for site in attention_sites(setting.model, stem):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            name, n = site.removesuffix("probs") + "heads", setting.queries(site)
            every = setting.model.heads(site)
            values = recorded(self, self.source, name, rows, setting)
            self.fits("source", values, (len(rows), every, n, setting.model.width(site) // every))
            patches = self.mask(self.patches, n, rows, heads, setting)
            changes.append(GivenOutput(site, rows, heads, patches, values[:, heads]))
        return changes
