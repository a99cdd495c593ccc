"""What attention heads write: the values of their keys, and the rank of their outputs."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.models import Model
from prob3r.models.sites import Site, Tap
from prob3r.runs.edits.editor import attention_map
from prob3r.scenes.views import Views


class Written(NamedTuple):
    """What the heads of one attention sublayer write, in a batch of scenes.

    Attributes:
        mass: The attention mass of every key.
        norm: The norm of the value of every key, relative to the median over the head's keys.
        share: The mean norm of what a key adds to the head's output, relative to the mean norm of
            that output. Contributions may cancel, so that shares may add up to more than one.
        rank: The effective rank of the head's output over queries.
    """

    mass: Float[Tensor, "b k m"]
    norm: Float[Tensor, "b k m"]
    share: Float[Tensor, "b k m"]
    rank: Float[Tensor, "b k"]


def written(model: Model, views: Views, sublayers: Collection[Site]) -> dict[str, Written]:
    """Return what the heads of some attention sublayers write, by sublayer.

    Args:
        model: The model; its heads are run, too.
        views: A batch of scenes.
        sublayers: Residual sites of attention sublayers.
    """
    tap = _Values({str(site) for site in sublayers})
    with torch.no_grad():
        model(*views.images, tap=tap)
    return tap.found


def effective_rank(output: Float[Tensor, "*b n e"]) -> Float[Tensor, "*b"]:
    """Return the exponential of the entropy of the singular values, as shares of their sum.

    After Roy and Vetterli, "The effective rank" (2007). The rank is 1 if all rows are multiples of
    one row.
    """
    values = torch.linalg.svdvals(output.float())
    shares = values / values.sum(-1, keepdim=True)
    rank: Tensor = torch.special.entr(shares).sum(-1).exp()
    return rank


class _Values(Tap):
    """Measures attention sublayers while the model runs, one scene at a time."""

    def __init__(self, sublayers: Collection[str]):
        self.sublayers = sublayers
        self.found: dict[str, Written] = {}

    def wants(self, site: str) -> bool:
        return site in self.sublayers

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        output = super().attend(site, queries, keys, values)
        name = str(Site.parse(site).residual)
        if name in self.sublayers:
            each = zip(queries.split(1), keys.split(1), strict=True)
            mass = torch.cat([attention_map(q, k).mean(2) for q, k in each])
            norm = values.norm(dim=-1)
            share = mass * norm / output.norm(dim=-1).mean(-1, keepdim=True)
            relative = norm / norm.median(-1, keepdim=True).values
            self.found[name] = Written(mass, relative, share, effective_rank(output))
        return output
