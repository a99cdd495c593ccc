"""The layers that the architectures share: those of the CroCo family, and those of DINOv2.

Parameter names are those of the official checkpoints, so that these load without renaming.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prob3r.models.sites import PROBS, Tap

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of all heads: queries `(b, k, n, e)`, keys, values `(b, k, m, e)` to `(b, k, n, e)`."""


def layer_norm(width: int, eps: float = 1e-6) -> nn.LayerNorm:
    """Return the LayerNorm that a block uses; the default is that of CroCo and DINOv2."""
    return nn.LayerNorm(width, eps=eps)


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


class InputProjection(nn.Linear):
    """The linear layer that begins a residual stream.

    Its output has the type of its weights, even where autocast rounds products to bfloat16. So
    what sublayers add is rounded, and the stream itself is not.
    """

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        """Return the beginning of the stream."""
        return super().forward(x).to(self.weight.dtype)


class RoPE2D:
    """Rotary position embedding over two axes (Su et al. 2021, as used in CroCo v2).

    The first half of a head's e channels is rotated by the row of the patch, the second half by its
    column. Within a half, channels j and j + e/4 form a plane, which is rotated by
    `position * base ** (-4 j / e)` radians.
    """

    def __init__(self, positions: Int[Tensor, "*b n 2"], head_width: int, base: float = 100.0):
        planes = head_width // 4
        exponents = torch.arange(planes, device=positions.device, dtype=torch.float32) / planes
        angles = positions.unsqueeze(-1) * base**-exponents
        cos, sin = angles.cos(), angles.sin()  # (*b, n, 2, e/4)
        # One table for all heads, (*b, 1, n, e). The sine has the sign that it has in the channel.
        self.cos = torch.stack((cos, cos), -2).flatten(-3).unsqueeze(-3)
        self.sin = torch.stack((-sin, sin), -2).flatten(-3).unsqueeze(-3)

    def __call__(self, x: Float[Tensor, "b k n e"]) -> Float[Tensor, "b k n e"]:
        """Return queries or keys, rotated by the positions of their patches."""
        partners = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
        # Three passes over whole rows: three times as fast as four products of halves.
        return torch.addcmul(x * self.cos.to(x.dtype), partners, self.sin.to(x.dtype))


class SelfAttention(nn.Module):
    """Multi-head attention of a stream to itself.

    Args:
        width: Width of the stream.
        heads: Number of heads; they share the width evenly.
        qk_norm: Whether each head's queries and keys go through a LayerNorm.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = (
            layer_norm(width // heads, 1e-5) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: RoPE2D, attend: Attend) -> Tensor:
        """Return what is added to the stream `(b, n, d)`."""
        return self.merge(attend(*self.split(x, rope)))

    def split(self, x: Tensor, rope: RoPE2D | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values of all heads, `(b, k, n, e)`, after RoPE."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        queries, keys, values = (part.transpose(1, 2) for part in parts)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        return (queries, keys, values) if rope is None else (rope(queries), rope(keys), values)

    def merge(self, heads: Float[Tensor, "b k n e"]) -> Float[Tensor, "b n d"]:
        """Return what is added to the stream, given the outputs of all heads."""
        return self.proj(heads.transpose(1, 2).flatten(2))


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
    """A two-layer perceptron.

    Args:
        width: Width of the input.
        hidden: Width between its layers; four times `width` by default.
        out: Width of the output; `width` by default.
    """

    def __init__(self, width: int, hidden: int | None = None, out: int | None = None):
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

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


class LayerScale(nn.Module):
    """A learned factor for each channel of what a sublayer adds (Touvron et al., CaiT, 2021)."""

    def __init__(self, width: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled addition `(b, n, d)`."""
        return x * self.gamma


class ViewsBlock(nn.Module):
    """Self-attention and MLP, over each view's tokens or over those of all views.

    DINOv2 and the trunks with alternating frame and global attention consist of such blocks. The
    output of a sublayer is scaled channel by channel before it is added. All streams have the same
    shape, so they run as one batch.

    Args:
        width: Width of the streams.
        heads: Number of attention heads.
        joint: Whether all tokens attend to the tokens of all views. If not, each view attends to
            itself.
        eps: Epsilon of the LayerNorms.
        qk_norm: Whether each head's queries and keys go through a LayerNorm.
        scale: Initial value of the layer scales; None for no layer scales.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        joint: bool = False,
        eps: float = 1e-5,
        qk_norm: bool = False,
        scale: float | None = 0.01,
    ):
        super().__init__()
        self.joint = joint
        self.norm1 = layer_norm(width, eps)
        self.attn = SelfAttention(width, heads, qk_norm)
        self.ls1 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.norm2 = layer_norm(width, eps)
        self.mlp = Mlp(width)
        self.ls2 = nn.Identity() if scale is None else LayerScale(width, scale)

    def forward(
        self, streams: Sequence[Tensor], rope: RoPE2D | None, tap: Tap, names: Sequence[str]
    ) -> list[Tensor]:
        """Return the streams `(b, n, d)` after the block.

        Args:
            streams: One stream for each view.
            rope: Rotary embedding of the tokens of one view; if the block is joint, of the tokens
                of all views, one view after another.
            tap: Called at every site.
            names: Name of the block in each view, such as `dec2.3`.
        """
        kind, mlp = ("global_attn", "global_mlp") if self.joint else ("self_attn", "mlp")
        attention = self._joint_attention if self.joint else self._own_attention
        probs = [f"{name}.{kind}.{PROBS}" for name in names]
        compute = partial(attention, streams, rope, tap, probs)
        attended = sublayer(tap, [f"{name}.{kind}" for name in names], compute)
        compute = partial(self._perceptron, attended)
        return sublayer(tap, [f"{name}.{mlp}" for name in names], compute)

    def _own_attention(
        self,
        streams: Sequence[Tensor],
        rope: RoPE2D | None,
        tap: Tap,
        sites: Sequence[str],
        chosen: list[int],
    ) -> Sequence[Tensor]:
        """Return chosen streams after each of them attended to itself."""
        x = torch.cat([streams[i] for i in chosen])
        heads = attend_apart(tap, [sites[i] for i in chosen], *self._split(x, rope))
        return self._attended(x, heads).chunk(len(chosen))

    def _joint_attention(
        self,
        streams: Sequence[Tensor],
        rope: RoPE2D | None,
        tap: Tap,
        sites: Sequence[str],
        chosen: list[int],
    ) -> Sequence[Tensor]:
        """Return chosen streams after they attended to all."""
        joined = torch.cat(list(streams), 1)
        queries, keys, values = self._split(joined, rope)
        parts = queries.chunk(len(streams), 2)
        own = [parts[i] for i in chosen]
        heads = tap.attend_views([sites[i] for i in chosen], own, keys, values)
        every = len(chosen) == len(streams)
        x = joined if every else torch.cat([streams[i] for i in chosen], 1)
        return self._attended(x, torch.cat(heads, 2)).chunk(len(chosen), 1)

    def _perceptron(self, streams: Sequence[Tensor], chosen: list[int]) -> Sequence[Tensor]:
        return self._refined(torch.cat([streams[i] for i in chosen])).chunk(len(chosen))

    def _split(self, x: Tensor, rope: RoPE2D | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values of all heads, given the stream."""
        return self.attn.split(self.norm1(x), rope)

    def _attended(self, x: Tensor, heads: Tensor) -> Tensor:
        """Return the stream after attention, given the outputs of all heads."""
        return x + self.ls1(self.attn.merge(heads))

    def _refined(self, x: Tensor) -> Tensor:
        """Return the stream after the perceptron."""
        return x + self.ls2(self.mlp(self.norm2(x)))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the computations between sites.

        They do not depend on the block or on the names of its sites, so all blocks of one shape
        share the compiled code.
        """
        for name in ("_split", "_attended", "_refined"):
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))


def sublayer(
    tap: Tap, sites: Sequence[str], compute: Callable[[list[int]], Sequence[Tensor]]
) -> list[Tensor]:
    """Return the streams of all views after a sublayer and after the tap.

    Args:
        tap: Provides the streams that it knows, and is called for the others.
        sites: The residual site of each view.
        compute: Computes the streams of some views, given by their index in `sites`; it is not
            called if the tap knows all streams.
    """
    streams = [tap.known(site) for site in sites]
    missing = [i for i, stream in enumerate(streams) if stream is None]
    computed = zip(missing, compute(missing), strict=True) if missing else ()
    new = {i: tap(sites[i], stream) for i, stream in computed}
    return [new[i] if stream is None else stream for i, stream in enumerate(streams)]


def attend_apart(
    tap: Tap, sites: Sequence[str], queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Return the outputs of all heads for views in one batch, each of which attends to itself.

    A tap that reads or edits attention is called for each view separately.
    """
    if not tap.attends_apart:
        return tap.attend(sites[0], queries, keys, values)
    parts = zip(*(tensor.chunk(len(sites)) for tensor in (queries, keys, values)), strict=True)
    return torch.cat([tap.attend(site, *part) for site, part in zip(sites, parts, strict=True)])
