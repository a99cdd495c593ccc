"""Edits of the residual stream, and transplants from another run."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.models.protocol import layout_of
from prob3r.models.sites import HEADS, PROBS, Site
from prob3r.runs.edits.changes import Change, GivenOutput, GivenStream, Recoded, Skipped
from prob3r.runs.edits.edit import Edit, Setting, Tokens
from prob3r.runs.edits.heads import Attention, recorded
from prob3r.runs.edits.means import TokenMeans, rows_of_tokens

TOKEN_MODES = ("zero", "mean", "noise", "resample")
"""The modes of `TokenAblation`."""


@dataclass(frozen=True, eq=False)
class Skip(Edit):
    """Makes a sublayer add nothing to the stream.

    Attributes:
        site: Residual sites, such as `dec2.3.mlp`.
        patches: The tokens that skip the sublayer. The default is all.
    """

    patches: Tokens | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        changes: list[Change] = []
        for site in setting.sites(self.site):
            if site.block is None:
                raise self.error(f"matches '{site}', which is an input and not a sublayer")
            rows = self.rows(setting)
            patches = self.mask(self.patches, setting.queries(site), rows, rows[:1], setting)
            if patches.any():
                changes.append(Skipped(str(site), rows, patches[:, 0]))
        return self.nonempty(changes)


@dataclass(frozen=True, eq=False)
class TokenAblation(Edit):
    """Replaces tokens of the residual stream.

    Attributes:
        site: Residual sites, such as `dec2.3.mlp`. With `dec*` the tokens are replaced at the input
            of the stack and after each of its sublayers, so that they never hold anything else.
        mode: `zero`, `mean` (over a data set), `noise` (normal, with the mean and the deviation of
            each channel over a data set) or `resample` (from another scene).
        patches: The tokens that are replaced. The default is all.
        source: For `mean` and `noise`, the result of `token_means`. For `resample`, a trace of
            another scene that holds the sites, for one scene or for as many as the edit changes.
        seed: The seed of the noise.
    """

    mode: str = field(default="zero", kw_only=True)
    patches: Tokens | None = field(default=None, kw_only=True)
    source: TokenMeans | Mapping[str, Tensor] | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        if self.mode not in TOKEN_MODES:
            raise self.error(f"has mode '{self.mode}'; it must be one of {', '.join(TOKEN_MODES)}")
        if isinstance(self.source, TokenMeans):
            self.source.check(setting.weights)
        changes: list[Change] = []
        for site in setting.sites(self.site):
            rows, axis = self.rows(setting), setting.queries(site)
            patches = self.mask(self.patches, axis, rows, rows[:1], setting)
            if patches.any():
                values = self._values(site, rows, setting)
                changes.append(GivenStream(str(site), rows, patches[:, 0], values))
        return self.nonempty(changes)

    def _values(self, site: Site, rows: Tensor, setting: Setting) -> Float[Tensor, "p2 n2 d2"]:
        """Return what the tokens of a stream become. An axis of size 1 stands for all."""
        tokens, width = len(setting.queries(site)), setting.width(site)
        if self.mode == "zero":
            return torch.zeros(1, 1, 1, device=setting.device)
        if self.mode == "resample":
            values = recorded(self, self.source, site, rows, setting)
            self.fits("source", values, (len(rows), tokens, width))
            return values
        if not isinstance(self.source, TokenMeans):
            raise self.error(f"has mode {self.mode} and needs `source`, the result of token_means")
        if str(site) not in self.source.values:
            raise self.error(f"finds no '{site}' in its source; take the means at this site")
        places = rows_of_tokens(layout_of(setting.model, site), tokens)
        mean, deviation = (t.to(setting.device)[places] for t in self.source.values[str(site)])
        if self.mode == "mean":
            return mean[None]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {site}".encode()))
        noise = torch.randn(len(rows), tokens, width, generator=generator)
        return mean + deviation * noise.to(setting.device)


@dataclass(frozen=True, eq=False)
class Recode(Edit):
    """Replaces the stream by a function of itself, token by token.

    Attributes:
        site: Residual sites, such as `dec2.3.mlp`.
        function: A function of the stream `(scenes, tokens, width)` of a site. It returns a tensor
            of the same shape. It is given all tokens, including those that do not change.
        patches: The tokens that change. The default is all.
    """

    function: Callable[[Tensor], Tensor]
    patches: Tokens | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        changes: list[Change] = []
        for site in setting.sites(self.site):
            rows = self.rows(setting)
            chosen = self.mask(self.patches, setting.queries(site), rows, rows[:1], setting)
            if chosen.any():
                changes.append(Recoded(str(site), rows, chosen[:, 0], self.function))
        return self.nonempty(changes)


@dataclass(frozen=True, eq=False)
class Transplant(Edit):
    """Activation patching: replaces activations by those of another run.

    It replaces a residual stream, the outputs of heads or an attention map.

    Attributes:
        site: `dec2.3.mlp` for the stream after a sublayer, `dec2.3.cross_attn.heads` for the
            outputs of its heads, `dec2.3.cross_attn.probs` for its attention map.
        source: A trace that holds the sites, for one scene or for as many as the edit changes.
        patches: The tokens of the stream, or the queries of the attention, that are replaced. The
            default is all.
        heads: The heads whose outputs or maps are replaced. The default is all.
    """

    source: Mapping[str, Tensor]
    patches: Tokens | None = field(default=None, kw_only=True)
    heads: Sequence[int] | None = field(default=None, kw_only=True)

    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site. See `Edit.bind`."""
        stem, _, last = self.site.rpartition(".")
        if last == PROBS:
            return self._maps(setting)
        if last == HEADS:
            return self._outputs(stem, setting)
        if self.heads is not None:
            raise self.error("names heads, but a residual stream has none; write SITE.heads")
        changes: list[Change] = []
        for site in setting.sites(self.site):
            rows, axis = self.rows(setting), setting.queries(site)
            values = recorded(self, self.source, site, rows, setting)
            self.fits("source", values, (len(rows), len(axis), setting.width(site)))
            patches = self.mask(self.patches, axis, rows, rows[:1], setting)
            if patches.any():
                changes.append(GivenStream(str(site), rows, patches[:, 0], values))
        return self.nonempty(changes)

    def _maps(self, setting: Setting) -> list[Change]:
        changes: list[Change] = []
        for site in setting.attention_sites(self.site):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            probs = recorded(self, self.source, site, rows, setting)
            edges = len(setting.queries(site)), len(setting.keys(site))
            self.fits("source", probs, (len(rows), setting.heads(site), *edges))
            chosen: dict[str, Any] = {
                "heads": self.heads,
                "queries": self.patches,
                "scenes": self.scenes,
            }
            changes += Attention(str(site), probs[:, heads], **chosen).bind(setting)
        return changes

    def _outputs(self, stem: str, setting: Setting) -> list[Change]:
        changes: list[Change] = []
        for site in setting.attention_sites(stem):
            rows, heads = self.rows(setting), self.heads_of(site, self.heads, setting)
            axis, every = setting.queries(site), setting.heads(site)
            values = recorded(self, self.source, site.read(HEADS), rows, setting)
            shape = (len(rows), every, len(axis), setting.width(site) // every)
            self.fits("source", values, shape)
            patches = self.mask(self.patches, axis, rows, heads, setting)
            if patches.any():
                changes.append(GivenOutput(str(site), rows, heads, patches, values[:, heads]))
        return self.nonempty(changes)
