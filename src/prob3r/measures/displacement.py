"""Displacement fields: how far a sublayer moves the mean point of every patch of view 2."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import align, normalise, patchify
from prob3r.models.sites import Site
from prob3r.scenes.views import Pair


class Field(NamedTuple):
    """A sublayer's displacement of every patch's mean point, in the pair's unit.

    Attributes:
        start: The points before the sublayer.
        move: The displacements.
        target: The true points.
        known: The patches that count.
    """

    start: Float[Tensor, "b n 3"]
    move: Float[Tensor, "b n 3"]
    target: Float[Tensor, "b n 3"]
    known: Bool[Tensor, "b n"]

    def size(self, where: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the mean length of the displacements."""
        return _mean(self.move.norm(dim=-1), where & self.known)

    def alignment(self, where: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the mean cosine between displacements and the direction to the truth."""
        cosine = torch.cosine_similarity(self.move, self.target - self.start, dim=-1)
        return _mean(cosine, where & self.known)

    def approach(self, where: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
        """Return the mean change of the distance to the true position; negative means nearer."""
        before = (self.target - self.start).norm(dim=-1)
        after = (self.target - self.start - self.move).norm(dim=-1)
        return _mean(after - before, where & self.known)

    def rigid_share(self) -> Float[Tensor, " b"]:
        """Return the share of the field's energy that the best rigid motion explains."""
        weights = self.known.to(self.move)
        end = self.start + self.move
        left = align(self.start, end, weights, scale=False).apply(self.start) - end
        energy = (self.move.square().sum(-1) * weights).sum(-1)
        return 1 - (left.square().sum(-1) * weights).sum(-1) / energy


def fields(
    points: Mapping[str, Float[Tensor, "b h w 3"]], pair: Pair, patch: int
) -> dict[str, Field]:
    """Return the displacement field of every sublayer of view 2 that has a site before it.

    A patch counts where the truth is known for more than half of its pixels.

    Args:
        points: The decoded pointmaps by site, in the pair's unit.
        pair: The pairs, with the truth.
        patch: Side of a patch, in pixels.
    """
    valid = pair.valid[1]
    known = covered(valid, patch) > 0.5
    target = patch_means(normalise(pair.points, pair.valid)[1], valid, patch)
    sites = [site for site in points if Site.parse(site).view == 2]
    means = [patch_means(points[site], torch.ones_like(valid), patch) for site in sites]
    return {
        site: Field(before, after - before, target, known)
        for site, before, after in zip(sites[1:], means, means[1:], strict=False)
    }


def patch_means(
    points: Float[Tensor, "b h w 3"], valid: Bool[Tensor, "b h w"], patch: int
) -> Float[Tensor, "b n 3"]:
    """Return the mean point of every patch, over its valid pixels; the origin if it has none."""
    weights = patchify(valid[..., None].to(points), patch)
    total = patchify(points.masked_fill(~valid[..., None], 0), patch).sum(2)
    return total / weights.sum(2).clamp_min(1)


def covered(valid: Bool[Tensor, "b h w"], patch: int) -> Float[Tensor, "b n"]:
    """Return the share of every patch's pixels that are valid."""
    return patchify(valid[..., None].float(), patch)[..., 0].mean(-1)


def _mean(values: Float[Tensor, "b n"], where: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Return the mean over the patches that count; NaN where none does."""
    total: Tensor = values.masked_fill(~where, 0).sum(-1)
    return total / where.sum(-1)
