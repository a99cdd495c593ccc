"""The base class of edits: its sites, its scenes, and its checks before a model runs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import fingerprint
from prob3r.models.protocol import Model, stack_of
from prob3r.models.sites import PROBS, Site, select
from prob3r.runs.edits.changes import Change
from prob3r.runs.edits.selection import Selection, TokenAxis
from prob3r.scenes.views import Views

Tokens = Sequence[int] | Tensor | Selection
"""A choice of tokens: a `Selection`, indices, a mask `(n,)`, or `(1 or scenes, 1 or heads, n)`."""


@dataclass(frozen=True)
class Setting:
    """The model and the batch that an edit applies to.

    Attributes:
        model: The model.
        scenes: The number of scenes in the batch.
        patches: The number of patches of each view.
    """

    model: Model
    scenes: int
    patches: tuple[int, ...]
    # Empty until asked for, then one; a copy by `replace` has the same list.
    _weights: list[str] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, model: Model, views: Views) -> "Setting":
        """Return the setting of a model that runs over a batch."""
        patch = model.config.patch
        counts = (math.prod(patch_grid(*view.size, patch)) for view in views.views)
        return cls(model, len(views), tuple(counts))

    @property
    def views(self) -> int:
        """The number of views."""
        return len(self.patches)

    @property
    def weights(self) -> str:
        """The fingerprint of the model. It is computed once, since all weights are read for it."""
        if not self._weights:
            self._weights.append(fingerprint(self.model))
        return self._weights[0]

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def sites(self, pattern: str) -> list[Site]:
        """Return the residual sites that match a pattern. Raise Prob3rError if none matches."""
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
        """Return the tokens that an attention site attends to."""
        site = Site.parse(site) if isinstance(site, str) else site
        return self._axis(site, site.key_views(self.views))

    def _axis(self, site: Site, views: Sequence[int]) -> TokenAxis:
        stack = stack_of(self.model, site)
        counts = self.patches if stack.patches else (0,) * self.views
        parts = ((view, counts[view - 1], stack.layout(view)) for view in views)
        return TokenAxis(site.view, tuple(parts))


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """A change to a model for one run. The model itself stays as it is.

    Attributes:
        site: The name of a site, or a shell-style pattern of several.
        scenes: The indices of the scenes in the batch that change. The default is all.
    """

    site: str
    scenes: Sequence[int] | None = field(default=None, kw_only=True)

    @abstractmethod
    def bind(self, setting: Setting) -> list[Change]:
        """Return the changes at each site.

        Raises:
            Prob3rError: The edit does not fit the model or the batch, or changes nothing.
        """

    def rows(self, setting: Setting) -> Int[Tensor, " p"]:
        """Return the indices of the scenes that change."""
        return self.chosen("scene", self.scenes, setting.scenes, setting)

    def heads_of(
        self, site: Site, heads: Sequence[int] | None, setting: Setting
    ) -> Int[Tensor, " j"]:
        """Return the chosen heads of an attention site."""
        return self.chosen("head", heads, setting.heads(site), setting)

    def chosen(
        self, what: str, indices: Sequence[int] | None, count: int, setting: Setting
    ) -> Int[Tensor, " i"]:
        """Return indices as a tensor. The default is all of `count`."""
        chosen = list(range(count) if indices is None else indices)
        if not chosen:
            raise self.error(f"names no {what} and changes nothing; name at least one")
        if wrong := [i for i in chosen if not 0 <= i < count]:
            raise self.error(f"names {what} {wrong[0]}; {what}s count from 0 to {count - 1}")
        if len(set(chosen)) < len(chosen):
            raise self.error(f"names a {what} twice; name each once")
        return torch.tensor(chosen, device=setting.device)

    def mask(
        self, tokens: Tokens | None, axis: TokenAxis, rows: Tensor, heads: Tensor, setting: Setting
    ) -> Bool[Tensor, "p j n"]:
        """Return a choice of tokens as a mask. An axis of size 1 stands for all scenes or heads."""
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
            raise self.error("has a mask that selects no token and changes nothing")
        return mask

    def nonempty(self, changes: list[Change]) -> list[Change]:
        """Return the changes. Raise Prob3rError if the selections chose no token anywhere."""
        if not changes:
            raise self.error("selects no token at any of its sites and changes nothing")
        return changes

    def fits(self, what: str, tensor: Tensor, shape: Sequence[int]) -> None:
        """Raise Prob3rError unless a tensor has this shape. An axis of size 1 fits any size."""
        pairs_of_sizes = zip(tensor.shape, shape, strict=False)
        if tensor.ndim != len(shape) or any(a not in (1, b) for a, b in pairs_of_sizes):
            raise self.error(
                f"has a {what} of shape {tuple(tensor.shape)}, which does not fit {tuple(shape)}"
            )

    def error(self, reason: str) -> Prob3rError:
        """Return an error that names the edit."""
        return Prob3rError(f"{type(self).__name__} at '{self.site}' {reason}.")
