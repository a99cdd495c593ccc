"""Coders encode a token of a residual stream as activations of a few units, and decode it again.

A dictionary is a coder (`prob3r.probes.dictionary`). The coders of this file are the baselines that
it is compared with: principal directions, the stream's own channels, and random directions.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Coder(nn.Module, ABC):
    """Encodes tokens as activations of units, and decodes tokens from activations.

    Attributes:
        units: The number of units.
    """

    units: int

    @abstractmethod
    def encode(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        """Return the activation of every unit."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "*b m"]) -> Float[Tensor, "*b d"]:
        """Return the tokens that are decoded from activations."""

    def reconstruct(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Return tokens after encoding and decoding, in the dtype of the input."""
        return self.decode(self.encode(tokens.float())).to(tokens)


class Basis(Coder):
    """Orthogonal directions around a mean, with only some coefficients kept.

    Args:
        mean: The mean, which is subtracted before tokens are projected.
        directions: A unit vector in each row.
        active: Number of coefficients kept of each token. The default is all.
        largest: Whether the coefficients of largest magnitude are kept; otherwise the first.
    """

    def __init__(
        self,
        mean: Float[Tensor, " d"],
        directions: Float[Tensor, "m d"],
        active: int | None = None,
        largest: bool = False,
    ):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.mean: Tensor
        self.directions: Tensor
        self.units = len(directions)
        self.active = min(active or self.units, self.units)
        self.largest = largest

    def encode(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        """Return the kept coefficients; the others are zero."""
        codes = (tokens - self.mean) @ self.directions.T
        if self.active == self.units:
            return codes
        if self.largest:
            kept = codes.abs().topk(self.active, -1).indices
            return torch.zeros_like(codes).scatter(-1, kept, codes.gather(-1, kept))
        return F.pad(codes[..., : self.active], (0, self.units - self.active))

    def decode(self, codes: Float[Tensor, "*b m"]) -> Float[Tensor, "*b d"]:
        """Return the tokens."""
        return codes @ self.directions + self.mean


class Directions(Coder):
    """Random directions. The largest positive dot products of a token with them are kept.

    All kept activations are scaled by one number, which minimises the squared reconstruction
    error of Gaussian tokens. This is a dictionary in which only the mean is learned.

    Args:
        mean: The mean, which is subtracted before tokens are projected.
        units: Number of directions.
        active: Number of activations kept of each token, at most.
        seed: Seed of the directions.
    """

    def __init__(self, mean: Float[Tensor, " d"], units: int, active: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = len(mean)
        drawn = F.normalize(torch.randn(units, width, generator=generator), dim=-1)
        self.register_buffer("mean", mean)
        self.register_buffer("directions", drawn.to(mean))
        self.mean: Tensor
        self.directions: Tensor
        self.units, self.active = units, active
        probe = torch.randn(256, width, generator=generator)
        codes = largest_positive(probe @ drawn.T, active)
        back = codes @ drawn
        self.scale = float((back * probe).sum() / back.square().sum())

    def encode(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b m"]:
        """Return the activations."""
        return largest_positive((tokens - self.mean) @ self.directions.T, self.active)

    def decode(self, codes: Float[Tensor, "*b m"]) -> Float[Tensor, "*b d"]:
        """Return the tokens."""
        return self.scale * codes @ self.directions + self.mean


def largest_positive(values: Float[Tensor, "*b m"], count: int) -> Float[Tensor, "*b m"]:
    """Return the `count` largest of each row where they are positive; the others become zero."""
    kept = values.topk(count, -1)
    return torch.zeros_like(values).scatter(-1, kept.indices, kept.values.relu())
