"""Attention of chosen tokens, shown as heat maps on the other views and as rays in 3D."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.scenes import Views

MOST_PINS = 6
RAYS = 12
"""Number of rays of a token: to the most attended patches of all other views."""


@dataclass(frozen=True)
class Pin:
    """A patch, or a special token, that a person chose.

    Attributes:
        view: Number of its view.
        patch: Number of the patch, row by row; not used for a special token.
        token: Name of the special token; empty for a patch.
    """

    view: int
    patch: int = 0
    token: str = ""

    def words(self, columns: int) -> str:
        """Return its place in words, such as `view 2, row 5, column 3`."""
        if self.token:
            return f"view {self.view}, {self.token}"
        row, column = divmod(self.patch, columns)
        return f"view {self.view}, row {row}, column {column}"


@dataclass(frozen=True)
class PatchAttention:
    """The attention of one token in every block and head; the mean of a block's heads is last.

    Attributes:
        patches: By view, the attention on its patches.
    """

    patches: dict[int, Float[np.ndarray, "blocks k _m"]]

    @property
    def elsewhere(self) -> Float[np.ndarray, "blocks k"]:
        """The share of the attention on special tokens."""
        on_patches: np.ndarray = sum(rows.sum(-1) for rows in self.patches.values())
        return np.clip(1 - on_patches, 0, 1)

    def shares(self, block: int, head: int | None) -> dict[int, float]:
        """Return the share on the patches of every view, for one head; None is the mean of all."""
        chosen = -1 if head is None else head
        return {view: float(rows[block, chosen].sum()) for view, rows in self.patches.items()}


def attention_of(
    model: Model, views: Views, pin: Pin, edits: Iterable[Edit] = ()
) -> PatchAttention:
    """Return the attention of one token in the trunk's attention between views.

    The model runs once, and only the attention rows of this token are kept.

    Args:
        model: The model.
        views: One scene.
        pin: The token.
        edits: Edits of the run.
    """
    setting = Setting.of(model, views)
    stack = trunk(model)
    places = stack.between(pin.view)
    layout, own = stack.layout(pin.view), setting.patches[pin.view - 1]
    tokens = own + len(layout.special)
    query = layout.patches(tokens).start + pin.patch
    if pin.token:
        query = layout.index(pin.token, tokens)
    rows = _Rows(edits, setting, places, query)
    with torch.no_grad():
        model(*views.images, tap=rows)
    every = torch.stack([rows.found[str(place.probs)] for place in places])
    every = torch.cat([every, every.mean(1, keepdim=True)], 1).float().cpu()
    spans = setting.keys(places[0]).patches
    seen = places[0].key_views(views.count)
    return PatchAttention(
        {view: every[..., span].numpy() for view, span in zip(seen, spans, strict=True)}
    )


class _Rows(Editor):
    """Keep one row of every head's attention map at some sites, after the edits."""

    def __init__(self, edits: Iterable[Edit], setting: Setting, places: Sequence[Site], query: int):
        super().__init__(edits, setting)
        self.found: dict[str, Float[Tensor, "k m"]] = {}
        self._wanted = {str(place.probs) for place in places}
        self._read = {str(place.residual) for place in places}
        self._span = slice(query, query + 1)

    def wants(self, site: str) -> bool:
        """Return whether this site is recorded or edited."""
        return site in self._read or super().wants(site)

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the outputs of the heads at this site, after the edits."""
        self._keep(site, queries, keys)
        return super().attend(site, queries, keys, values)

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the outputs of the heads of joint attention at these sites, after the edits."""
        for site, own in zip(sites, queries, strict=True):
            self._keep(site, own, keys)
        return super().attend_views(sites, queries, keys, values)

    def _keep(self, site: str, queries: Tensor, keys: Tensor) -> None:
        if site in self._wanted:
            self.found[site] = self.attention_map(site, queries, keys, self._span)[0, :, 0]


class Rays(NamedTuple):
    """The patches of other views that a token attends to most.

    Attributes:
        views: Their views.
        keys: Their numbers in their views, by decreasing weight.
        weights: The attention on them, as a share of the largest.
    """

    views: Int[np.ndarray, " r"]
    keys: Int[np.ndarray, " r"]
    weights: Float[np.ndarray, " r"]


def rays(rows: dict[int, Float[np.ndarray, " _m"]], most: int = RAYS) -> Rays:
    """Return the strongest keys of one row of attention, given by view."""
    views = np.concatenate([np.full(len(row), view) for view, row in rows.items()])
    patches = np.concatenate([np.arange(len(row)) for row in rows.values()])
    every = np.concatenate(list(rows.values()))
    first = np.argsort(-every)[:most]
    largest = max(float(every[first[0]]), 1e-12)
    return Rays(views[first], patches[first], (every[first] / largest).astype(every.dtype))


def heat(row: Float[np.ndarray, " m"], largest: float | None = None) -> Float[np.ndarray, " m"]:
    """Return a row of attention as levels from 0 to 1: the square root, so that weak ones show.

    Args:
        row: The attention.
        largest: The attention of level 1; by default the largest of the row.
    """
    top = float(row.max()) if largest is None else largest
    result: np.ndarray = np.sqrt(np.clip(row, 0, None) / max(top, 1e-12))
    return result
