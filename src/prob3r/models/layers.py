"""The layers that two-view transformers of the CroCo family share.

Parameter names are those of the official checkpoints, so that these load as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prob3r.models.sites import Tap

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of all heads: queries `(b, k, n, e)`, keys, values `(b, k, m, e)` to `(b, k, n, e)`."""


def layer_norm(width: int) -> nn.LayerNorm:
    """Return the LayerNorm that every block uses."""
    return nn.LayerNorm(width, eps=1e-6)


def patch_positions(rows: int, columns: int, device: torch.device) -> Int[Tensor, "n 2"]:
    """Return the (row, column) of every patch of a grid, row by row."""
    grid = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    return torch.stack(grid, -1).flatten(0, 1)


class Tokens(NamedTuple):
    """The patches of one view.

    Attributes:
        stream: The residual stream.
        grid: The rows and columns that the patches came from.
    """

    stream: Float[Tensor, "b n d"]
    grid: tuple[int, int]


class RoPE2D:
    """Rotary position embedding over two axes (Su et al. 2021, as used in CroCo v2).

    The first half of a head's channels turns with the row of the patch, the second half with its
    column; within a half, channel j and channel j + e/4 form one plane that turns by
    `position * base ** (-4 j / e)` radians.
    """

    def __init__(self, positions: Int[Tensor, "*b n 2"], head_width: int, base: float = 100.0):
        planes = head_width // 4
        exponents = torch.arange(planes, device=positions.device, dtype=torch.float32) / planes
        angles = positions.unsqueeze(-1) * base**-exponents
        # One table for all heads: (*b, 1, n, 2, e/4)
        self.cos = angles.cos().unsqueeze(-4)
        self.sin = angles.sin().unsqueeze(-4)

    def __call__(self, x: Float[Tensor, "b k n e"]) -> Float[Tensor, "b k n e"]:
        """Return queries or keys turned by the positions of their patches."""
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), -2)
        return turned.flatten(-3)


class SelfAttention(nn.Module):
    """Multi-head attention of a stream to itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: RoPE2D, attend: Attend) -> Tensor:
        """Return what is added to the stream `(b, n, d)`."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        out = attend(
            rope(queries.transpose(1, 2)), rope(keys.transpose(1, 2)), values.transpose(1, 2)
        )
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of one view's stream to the other's."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, other: Tensor, rope: RoPE2D, rope_other: RoPE2D, attend: Attend
    ) -> Tensor:
        """Return what is added to the stream `(b, n, d)`, given the other one `(b, m, d)`."""
        queries, keys, values = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, tokens in ((self.projq, x), (self.projk, other), (self.projv, other))
        )
        out = attend(rope(queries), rope_other(keys), values)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the stream `(b, n, d)`."""
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Self-attention and MLP over one view's patches."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, rope: RoPE2D, tap: Tap, name: str) -> Tensor:
        """Return the residual stream `(b, n, d)` after the block called `name`."""

        def self_attn() -> Tensor:
            return x + self.attn(self.norm1(x), rope, at(tap, f"{name}.self_attn.probs"))

        attended = tap.residual(f"{name}.self_attn", self_attn)
        return tap.residual(f"{name}.mlp", lambda: attended + self.mlp(self.norm2(attended)))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the other view, and MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = layer_norm(width)
        self.attn = SelfAttention(width, heads)
        self.norm2 = layer_norm(width)
        self.norm_y = layer_norm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.norm3 = layer_norm(width)
        self.mlp = Mlp(width)

    def forward(
        self, x: Tensor, other: Tensor, rope: RoPE2D, rope_other: RoPE2D, tap: Tap, name: str
    ) -> Tensor:
        """Return the residual stream `(b, n, d)` after the block called `name`.

        `other` is the other view's stream as it was at the input of this block.
        """

        def self_attn() -> Tensor:
            return x + self.attn(self.norm1(x), rope, at(tap, f"{name}.self_attn.probs"))

        def cross_attn() -> Tensor:
            attend = at(tap, f"{name}.cross_attn.probs")
            queries, keys = self.norm2(attended), self.norm_y(other)
            return attended + self.cross_attn(queries, keys, rope, rope_other, attend)

        attended = tap.residual(f"{name}.self_attn", self_attn)
        crossed = tap.residual(f"{name}.cross_attn", cross_attn)
        return tap.residual(f"{name}.mlp", lambda: crossed + self.mlp(self.norm3(crossed)))


def at(tap: Tap, site: str) -> Attend:
    """Return the tap's attention, bound to one site."""
    return lambda queries, keys, values: tap.attend(site, queries, keys, values)
