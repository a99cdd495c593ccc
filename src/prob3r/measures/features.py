"""The similarity of the features of views: of their mean patches, and patch by patch."""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.models.sites import Site
from prob3r.runs.trace import Trace


def streams_at(run: Trace, site: Site, views: int) -> list[Float[Tensor, "b _n d"]]:
    """Return the recorded patches of every view at the same site."""
    return [run[str(site.of(view))].patches.float() for view in range(1, views + 1)]


def mean_cosines(streams: Sequence[Float[Tensor, "b _n d"]]) -> Float[Tensor, "b v v"]:
    """Return the cosines between the mean patches of all views."""
    means = torch.stack([F.normalize(stream.mean(1), dim=-1) for stream in streams], 1)
    return means @ means.mT


def best_cosines(streams: Sequence[Float[Tensor, "b _n d"]]) -> Float[Tensor, "b v v"]:
    """Return the similarity of the patches of a view (row) to those of another view (column).

    It is the cosine with the most similar patch, mean over the patches; 1 on the diagonal.
    """
    patches = [F.normalize(stream, dim=-1) for stream in streams]
    count, first = len(patches), patches[0]
    found = first.new_ones(len(first), count, count)
    for i, j in combinations(range(count), 2):
        cosines = patches[i] @ patches[j].mT
        found[:, i, j], found[:, j, i] = (cosines.amax(axis).mean(-1) for axis in (-1, -2))
    return found
