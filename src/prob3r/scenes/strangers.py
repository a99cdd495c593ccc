"""Scenes with a stranger: one view is replaced by a photograph of another scene."""

import zlib
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.scenes.view import View
from prob3r.scenes.views import Views

THUMBNAIL = 4
"""Cells along each side of the grid of mean colours by which photographs are compared."""


class Mixed(NamedTuple):
    """A batch of scenes, of which half have a stranger among their views.

    Attributes:
        views: The photographs only, because there is no ground truth for a scene with a stranger.
        stranger: Whether each view is a stranger. View 1 never is.
    """

    views: Views
    stranger: Bool[Tensor, "b v"]


def with_strangers(views: Views, seed: int = 0, alike: bool = False) -> Mixed:
    """Replace one view in half of the scenes by a view of another scene of the batch.

    The draws depend on the seed and on the names of the scenes. View 1 is the reference and is
    never replaced. A scene is unchanged if its batch has no other scene, or if the scenes are not
    known.

    Args:
        views: A batch of scenes of three or more views.
        seed: Seed of the draws.
        alike: Whether the stranger is the view of another scene that looks most like the replaced
            view. By default it is drawn from all views of other scenes.
    """
    count, places = len(views), views.count
    names = views.names or tuple(map(str, range(count)))
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {' '.join(names)}".encode()))
    images = [view.image.clone() for view in views.views]
    stranger = torch.zeros(count, places, dtype=torch.bool)
    order = torch.randperm(count, generator=generator).tolist()
    slots = torch.randint(1, places, (count,), generator=generator).tolist()
    for row in order[: count // 2]:
        slot = slots[row]
        donors = _donors(views, row, slot)
        if not donors:
            continue
        drawn = int(torch.randint(len(donors), (1,), generator=generator))
        if alike:
            own = _thumbnail(views.views[slot].image[row])
            others = torch.stack([_thumbnail(views.views[v].image[r]) for r, v in donors])
            drawn = int((others - own).square().sum(1).argmin())
        donor, view = donors[drawn]
        images[slot][row] = views.views[view].image[donor]
        stranger[row, slot] = True
    photographs = tuple(View(image) for image in images)
    return Mixed(replace(Views(photographs), names=views.names, scenes=views.scenes), stranger)


def _donors(views: Views, row: int, slot: int) -> list[tuple[int, int]]:
    """Return the photographs (row, view) that can replace one: of other scenes, of equal size."""
    size = views.views[slot].size
    rows = [r for r in range(len(views)) if views.scenes and views.scenes[r] != views.scenes[row]]
    return [(r, v) for r in rows for v, view in enumerate(views.views) if view.size == size]


def _thumbnail(image: Float[Tensor, "3 h w"]) -> Float[Tensor, " d"]:
    return F.adaptive_avg_pool2d(image[None], THUMBNAIL).flatten()
