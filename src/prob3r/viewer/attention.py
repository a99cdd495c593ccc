"""Attention of chosen tokens: where they attend to, as heat on the other views and as rays."""

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
"""The most attended patches of all other views that get a ray."""


@dataclass(frozen=True)
class Pin:
    """A patch, or a special token, that a person chose.

    Attributes:
        view: Number of its view.
        patch: Its number, row by row; of a special token it means nothing.
        token: Name of the special token; empty for a patch.
    """

    view: int
    patch: int = 0
    token: str = ""

    def words(self, columns: int) -> str:
        """Return where it is, such as `view 2, row 5, column 3`."""
        if self.token:
            return f"view {self.view}, {self.token}"
        row, column = divmod(self.patch, columns)
        return f"view {self.view}, row {row}, column {column}"


@dataclass(frozen=True)
class PatchAttention:
    """What one token attends to, in every block and head; the mean of a block's heads is last.

    Attributes:
        patches: By view, the attention on its patches.
    """

    patches: dict[int, Float[np.ndarray, "blocks k _m"]]

    @property
    def elsewhere(self) -> Float[np.ndarray, "blocks k"]:
        """The share that falls on special tokens."""
        on_patches: np.ndarray = sum(rows.sum(-1) for rows in self.patches.values())
        return np.clip(1 - on_patches, 0, 1)

    def shares(self, block: int, head: int | None) -> dict[int, float]:
        """Return the share on the patches of every view, for one head or the mean of all."""
        chosen = -1 if head is None else head
        return {view: float(rows[block, chosen].sum()) for view, rows in self.patches.items()}


def attention_of(
    model: Model, views: Views, pin: Pin, edits: Iterable[Edit] = ()
) -> PatchAttention:
    """Return what one token attends to in the trunk's attention between views.

    The model runs once, and only the rows of this token are kept.

    Args:
        model: The model.
        views: One scene.
        pin: The token.
        edits: Changes to the run.
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
    """Keeps one row of every head's attention map at some sites, after the edits."""

    def __init__(self, edits: Iterable[Edit], setting: Setting, places: Sequence[Site], query: int):
        super().__init__(edits, setting)
        self.found: dict[str, Float[Tensor, "k m"]] = {}
        self._wanted = {str(place.probs) for place in places}
        self._read = {str(place.residual) for place in places}
        self._span = slice(query, query + 1)

    def wants(self, site: str) -> bool:
        """Return whether anything of a sublayer is kept or changed."""
        return site in self._read or super().wants(site)

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the heads' outputs after the changes at this site."""
        self._keep(site, queries, keys)
        return super().attend(site, queries, keys, values)

    def attend_views(
        self, sites: Sequence[str], queries: Sequence[Tensor], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        """Return the heads' outputs of joint attention after the changes at these sites."""
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
        keys: Their numbers in their views, by falling weight.
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
    """Return a row of attention from 0 to 1, weak ones lifted by a square root to be seen.

    Args:
        row: The attention.
        largest: What becomes 1; by default the largest of the row.
    """
    top = float(row.max()) if largest is None else largest
    result: np.ndarray = np.sqrt(np.clip(row, 0, None) / max(top, 1e-12))
    return result
