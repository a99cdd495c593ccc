"""What every edit shares: where it acts, on which pairs, and the check before anything runs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import TwoViewModel
from prob3r.models.sites import Site, select
from prob3r.runs.edits.changes import Change
from prob3r.scenes.views import Pair

Patches = Sequence[int] | Tensor
"""A choice of patches: indices, a mask `(n,)`, or a mask `(1 or pairs, 1 or heads, n)`."""


@dataclass(frozen=True)
class Setting:
    """What edits are held against before they run.

    Attributes:
        model: The model they change.
        pairs: How many pairs the batch has.
        patches: How many patches view 1 and view 2 have.
    """

    model: TwoViewModel
    pairs: int
    patches: tuple[int, int]

    @classmethod
    def of(cls, model: TwoViewModel, pair: Pair) -> "Setting":
        """Return the setting of a model that runs over a batch."""
        patch = model.config.patch
        grids = [patch_grid(*view.size, patch) for view in (pair.view1, pair.view2)]
        return cls(model, len(pair), (math.prod(grids[0]), math.prod(grids[1])))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def queries(self, site: str) -> int:
        """Return how many tokens the stream of a site has: its patches, then any others."""
        parsed = Site.parse(site)
        return self._tokens(parsed.stack, parsed.view)

    def keys(self, site: str) -> int:
        """Return how many tokens an attention site looks at."""
        parsed = Site.parse(site)
        crossed = parsed.sublayer == "cross_attn"
        return self._tokens(parsed.stack, 3 - parsed.view if crossed else parsed.view)

    def _tokens(self, stack: str, view: int) -> int:
        return self.patches[view - 1] + self.model.extra_tokens(f"{stack}{view}")


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """A change made while a model runs; nothing is left of it afterwards.

    Attributes:
        site: The name of a site, or a shell-style pattern of several.
        pairs: The pairs of the batch that it concerns, by their number; all by default.
    """

    site: str
    pairs: Sequence[int] | None = field(default=None, kw_only=True)

    @abstractmethod
    def bind(self, setting: Setting) -> list[Change]:
        """Return what changes at each site.

        Raises:
            Prob3rError: The edit does not fit the model or the batch, or touches nothing.
        """

    def rows(self, setting: Setting) -> Int[Tensor, " p"]:
        """Return the pairs that the edit concerns."""
        return self.chosen("pair", self.pairs, setting.pairs, setting)

    def heads_of(
        self, site: str, heads: Sequence[int] | None, setting: Setting
    ) -> Int[Tensor, " j"]:
        """Return the chosen heads of an attention site."""
        return self.chosen("head", heads, setting.model.heads(site), setting)

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
        self, patches: Patches | None, count: int, rows: Tensor, heads: Tensor, setting: Setting
    ) -> Bool[Tensor, "p j n"]:
        """Return a choice of patches as a mask; axes of size 1 stand for all pairs or heads."""
        if not isinstance(patches, Tensor) or patches.dtype != torch.bool:
            listed = patches.tolist() if isinstance(patches, Tensor) else patches
            mask = torch.zeros(count, dtype=torch.bool, device=setting.device)
            mask[self.chosen("patch", listed, count, setting)] = True
        else:
            mask = patches.to(setting.device)
        mask = mask.reshape(1, 1, -1) if mask.ndim == 1 else mask
        self.fits("mask of patches", mask, (len(rows), len(heads), count))
        if not mask.any():
            raise self.error("has a mask without a patch, and touches nothing")
        return mask

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


def attention_sites(model: TwoViewModel, pattern: str) -> list[str]:
    """Return the attention sites of sublayers whose name matches, with or without `.probs`."""
    return select(f"{pattern.removesuffix('.probs')}.probs", model.attention_sites())
