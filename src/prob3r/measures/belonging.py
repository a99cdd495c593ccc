"""Scores of how well a view belongs to its scene, from attention and features between views.

- `attention`: the attention that the patches of the other views give to the patches of a view
  (`attention.by_view`, mean over the other views).
- `mean features`: the cosine of the mean feature of a view's patches with that of another view,
  mean over the other views.
- `best patches`: the cosine of a patch with the most similar patch of another view, mean over the
  patches of the view and over the other views.

The *doubt* about a view is how far its value lies under the median of the other views: the
logarithm of their ratio for `attention`, which does not depend on the number of views, and the
difference for cosines. View 1 is the reference. It is not part of that median, and its doubt is
NaN.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import median
from prob3r.measures.attention import BY_VIEW, by_view
from prob3r.measures.features import best_cosines, mean_cosines, streams_at
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.runs.edits import Setting
from prob3r.runs.trace import trace
from prob3r.scenes.views import Views

ATTENTION, MEAN_FEATURES, BEST_PATCHES = SCORES = ("attention", "mean features", "best patches")

INPUT = -1
"""The block that stands for the input of the trunk, before any attention between views."""

_MEMORY = 2**30  # bytes of streams that are held at once, roughly
_SMALLEST = 1e-6  # less attention than this counts as this before the logarithm


def belonging(model: Model, views: Views) -> dict[tuple[str, int], Float[Tensor, "b v"]]:
    """Return the scores of every view of a batch of scenes, by score and block.

    The attention is that of each block with attention between views. The features are those at the
    end of each block, and at the input of the trunk (`INPUT`).
    """
    stack = trunk(model)
    held = 4 * sum(Setting.of(model, views).patches) * stack.width * (stack.blocks + 1)
    size = max(1, _MEMORY // held)
    parts = [_scores(model, views[start : start + size]) for start in range(0, len(views), size)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _scores(model: Model, views: Views) -> dict[tuple[str, int], Float[Tensor, "b v"]]:
    stack, numbers = trunk(model), range(1, views.count + 1)
    places = stack.between(1)
    ends = {INPUT: Site(stack.name, 1, None, "embed")} | {
        site.block: site for site in stack.ends(1) if site.block is not None
    }
    wanted = [str(site.of(view)) for site in ends.values() for view in numbers]
    wanted += [str(place.of(view).read("by_view")) for place in places for view in numbers]
    run = trace(model, views, wanted, output=False, reductions={"by_view": BY_VIEW})
    found: dict[tuple[str, int], Tensor] = {}
    for place in places:
        assert place.block is not None  # attention is that of a block
        found[ATTENTION, place.block] = received(by_view(run, place, views.count))
    for block, site in ends.items():
        streams = streams_at(run, site, views.count)
        found[MEAN_FEATURES, block] = of_others(mean_cosines(streams))
        found[BEST_PATCHES, block] = of_others(best_cosines(streams))
    return {key: values.float().cpu() for key, values in found.items()}


def of_others(between: Float[Tensor, "*b v v"]) -> Float[Tensor, "*b v"]:
    """Return the mean of each row over the other views."""
    count = between.shape[-1]
    apart = between.masked_fill(torch.eye(count, dtype=torch.bool, device=between.device), 0)
    return apart.sum(-1) / (count - 1)


def received(shares: Float[Tensor, "*b v v"]) -> Float[Tensor, "*b v"]:
    """Return the attention that each view receives, mean over the other views.

    Args:
        shares: The share of each view's attention on each view; see `attention.by_view`.
    """
    return of_others(shares.mT)


def doubts(score: str, values: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
    """Return how far the value of each view lies under the median of the others; NaN for view 1.

    Args:
        score: Name of the score; `attention` is compared by its logarithm.
        values: The value of each view.
    """
    known = values.clamp_min(_SMALLEST).log() if score == ATTENTION else values
    found = torch.full_like(known, torch.nan)
    for view in range(1, known.shape[-1]):
        rest = [other for other in range(1, known.shape[-1]) if other != view]
        if rest:
            found[..., view] = median(known[..., rest]) - known[..., view]
    return found


def all_doubts(
    scores: Mapping[tuple[str, int], Float[Tensor, "b v"]],
) -> dict[tuple[str, int], Float[Tensor, "b v"]]:
    """Return the doubts that follow from the scores of `belonging`, by score and block."""
    return {(score, block): doubts(score, v) for (score, block), v in scores.items()}
