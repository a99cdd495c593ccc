"""Curves of an error over the depth of a model: where they settle, and where they fall.

A curve holds one value a site, in the order in which the sites fire. Studies, page and
viewer all use these definitions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prob3r.models.sites import Site

SETTLED = 1.1
"""A curve has settled at a site if from there on it is at most this many times its last value."""

TOLERANCES = {"rotation_error": 15.0, "translation_error": 20.0, "scale_error": 0.1}
"""Errors under these are small enough, by metric: in degrees, and 10 % of the scale."""


def settled(values: Float[Tensor, "*b s"], least: float = 0.0) -> Int[Tensor, "*b"]:
    """Return the first site from which each curve is settled.

    Args:
        values: Curves over sites.
        least: Differences from the last value up to this never count, in the curves' unit.
    """
    last = values[..., -1:]
    return _stays_under(values, (SETTLED * last).maximum(last + least))


def half_way(values: Float[Tensor, "*b s"]) -> Int[Tensor, "*b"]:
    """Return the first site from which each curve stays under the mean of its first and last."""
    return _stays_under(values, (values[..., :1] + values[..., -1:]) / 2)


def centre_of_fall(values: Float[Tensor, "*b s"], blocks: Int[Tensor, " s"]) -> Float[Tensor, "*b"]:
    """Return the mean block of each curve, weighted by each block's share of the whole fall.

    A block in which the curve rises has a share below zero. The centre is NaN for a curve that does
    not fall from its first value to its last.

    Args:
        values: Curves over sites.
        blocks: The block of each site, -1 for the input.
    """
    falls = values[..., :-1] - values[..., 1:]
    whole = falls.sum(-1)
    centre: Tensor = (falls * blocks[1:]).sum(-1) / whole
    return centre.where(whole > 0, torch.nan)


def first_under(
    values: Float[Tensor, "*b s"], blocks: Int[Tensor, " s"], tolerance: float
) -> Float[Tensor, "*b"]:
    """Return the first block in which each curve is under a tolerance; the last plus 1 if none.

    Args:
        values: Curves over sites.
        blocks: The block of each site, -1 for the input.
        tolerance: In the curves' unit.
    """
    under = values < tolerance
    first = blocks[under.int().argmax(-1)]
    return first.where(under.any(-1), blocks[-1] + 1).to(values.dtype)


def blocks_of(sites: Sequence[str]) -> Int[Tensor, " s"]:
    """Return the block of each site, -1 for a stack's input."""
    blocks = [Site.parse(site).block for site in sites]
    return torch.tensor([-1 if block is None else block for block in blocks])


def block_ends(sites: Sequence[str]) -> list[int]:
    """Return the index of the last site of each block, in order."""
    blocks = [Site.parse(site).block for site in sites]
    following = [*blocks[1:], None]
    each = enumerate(zip(blocks, following, strict=True))
    return [i for i, (block, after) in each if block is not None and block != after]


def _stays_under(values: Float[Tensor, "*b s"], bar: Float[Tensor, "*b 1"]) -> Int[Tensor, "*b"]:
    """Return the index of the site after the last one above a bar; at most the last site."""
    above = ~(values <= bar)
    after = (above * torch.arange(1, values.shape[-1] + 1, device=values.device)).amax(-1)
    return after.clamp_max(values.shape[-1] - 1)
