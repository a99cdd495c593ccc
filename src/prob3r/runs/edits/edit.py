"""What every edit shares: where it acts, on which scenes, and the check before anything runs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.protocol import Model, stack_of
from prob3r.models.sites import PROBS, Site, select
from prob3r.runs.edits.changes import Change
from prob3r.runs.edits.selection import Selection, TokenAxis
from prob3r.scenes.views import Views

Tokens = Sequence[int] | Tensor | Selection
"""A choice of tokens: a `Selection`, indices, a mask `(n,)`, or `(1 or scenes, 1 or heads, n)`."""


@dataclass(frozen=True)
class Setting:
    """What edits are held against before they run.

    Attributes:
        model: The model they change.
        scenes: How many scenes the batch has.
        patches: How many patches each view has.
    """

    model: Model
    scenes: int
    patches: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, views: Views) -> "Setting":
        """Return the setting of a model that runs over a batch."""
        patch = model.config.patch
        counts = (math.prod(patch_grid(*view.size, patch)) for view in views.views)
        return cls(model, len(views), tuple(counts))

    @property
    def views(self) -> int:
        """How many views there are."""
        return len(self.patches)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def sites(self, pattern: str) -> list[Site]:
        """Return the residual sites that match a pattern; raise Prob3rError if none does."""
        return [Site.parse(name) for name in select(pattern, self.model.sites(self.views))]

    def attention_sites(self, pattern: str) -> list[Site]:
        """Return the attention sites that match a pattern, with or without `.probs` at its end."""
        names = self.model.attention_sites(self.views)
        stem = pattern.removesuffix(f".{PROBS}")
        return [Site.parse(name) for name in select(f"{stem}.{PROBS}", names)]

    def width(self, site: Site) -> int:
        """Return the width of the stream that a site belongs to."""
        return stack_of(self.model, site).width

    def heads(self, site: Site) -> int:
        """Return the number of heads of a site's sublayer."""
        return stack_of(self.model, site).heads

    def queries(self, site: Site) -> TokenAxis:
        """Return the tokens of the stream that a site belongs to."""
        return self._axis(site, (site.view,))

    def keys(self, site: Site | str) -> TokenAxis:
        """Return the tokens that an attention site looks at."""
        site = Site.parse(site) if isinstance(site, str) else site
        return self._axis(site, site.key_views(self.views))

    def _axis(self, site: Site, views: Sequence[int]) -> TokenAxis:
        stack = stack_of(self.model, site)
        parts = ((view, self.patches[view - 1], stack.layout(view)) for view in views)
        return TokenAxis(site.view, tuple(parts))


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """A change made while a model runs; nothing is left of it afterwards.

    Attributes:
        site: The name of a site, or a shell-style pattern of several.
        scenes: The scenes of the batch that it concerns, by their number; all by default.
    """

    site: str
    scenes: Sequence[int] | None = field(default=None, kw_only=True)

    @abstractmethod
    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site.

        Raises:
            Prob3rError: The edit does not fit the model or the batch, or touches nothing.
        """

    def rows(self, setting: Setting) -> Int[Tensor, " p"]:
        """Return the scenes that the edit concerns."""
        return self.chosen("scene", self.scenes, setting.scenes, setting)

    def heads_of(
        self, site: Site, heads: Sequence[int] | None, setting: Setting
    ) -> Int[Tensor, " j"]:
        """Return the chosen heads of an attention site."""
        return self.chosen("head", heads, setting.heads(site), setting)

    def chosen(
        self, what: str, indices: Sequence[int] | None, count: int, setting: Setting
    ) -> Int[Tensor, " i"]:
        """Return indices as a tensor, all of `count` by default."""
        chosen = list(range(count) if indices is None else indices)
        if not chosen:
            raise self.error(f"names no {what}, and touches nothing; name at least one")
        if wrong := [i for i in chosen if not 0 <= i < count]:
            raise self.error(f"names {what} {wrong[0]}; they count from 0 to {count - 1}")
        if len(set(chosen)) < len(chosen):
            raise self.error(f"names a {what} twice; name each once")
        return torch.tensor(chosen, device=setting.device)

    def mask(
        self, tokens: Tokens | None, axis: TokenAxis, rows: Tensor, heads: Tensor, setting: Setting
    ) -> Bool[Tensor, "p j n"]:
        """Return a choice of tokens as a mask; axes of size 1 stand for all scenes or heads."""
        count = len(axis)
        if isinstance(tokens, Selection):
            mask = axis.mask(tokens.test).to(setting.device)
        elif isinstance(tokens, Tensor) and tokens.dtype == torch.bool:
            mask = tokens.to(setting.device)
        else:
            listed = tokens.tolist() if isinstance(tokens, Tensor) else tokens
            mask = torch.zeros(count, dtype=torch.bool, device=setting.device)
            mask[self.chosen("token", listed, count, setting)] = True
        mask = mask.reshape(1, 1, -1) if mask.ndim == 1 else mask
        self.fits("mask of tokens", mask, (len(rows), len(heads), count))
        if not mask.any() and not isinstance(tokens, Selection):
            raise self.error("has a mask without a token, and touches nothing")
        return mask

    def touching(self, changes: list[Change]) -> list[Change]:
        """Return changes; raise Prob3rError if there are none, since selections chose nothing."""
        if not changes:
            raise self.error("selects no token at any of its sites, and touches nothing")
        return changes

    def fits(self, what: str, tensor: Tensor, shape: Sequence[int]) -> None:
        """Raise Prob3rError unless a tensor has a shape, or 1 where it may stand for all."""
        pairs_of_sizes = zip(tensor.shape, shape, strict=False)
        if tensor.ndim != len(shape) or any(a not in (1, b) for a, b in pairs_of_sizes):
            raise self.error(
                f"has a {what} of shape {tuple(tensor.shape)}, which does not fit {tuple(shape)}"
            )

    def error(self, reason: str) -> Prob3rError:
        """Return an error that names the edit."""
        return Prob3rError(f"{type(self).__name__} at '{self.site}' {reason}.")
