"""DINOv2: the image encoder of VGGT, π³ and Depth Anything 3.

Architecture: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR
2024; with register tokens, Darcet et al., "Vision Transformers Need Registers", ICLR 2024.
Parameter names are those of the official checkpoints.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.layers import ViewsBlock, layer_norm, sublayer
from prob3r.models.protocol import Stack, TokenLayout
from prob3r.models.sites import Tap

HEAD_WIDTH = 64
"""Width of every head of the published DINOv2 models, whatever their size."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def imagenet_normalised(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return images of colours in [-1, 1], normalised with the statistics of ImageNet."""
    mean, deviation = (
        images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
    )
    return ((images + 1) / 2 - mean) / deviation


class PatchEmbedding(nn.Module):
    """A convolution that makes one token of each patch."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return the tokens, row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class DINOv2(nn.Module):
    """A vision transformer with class and register tokens, layer scale and learned positions.

    Args:
        width: Width of the stream.
        depth: Number of blocks.
        heads: Heads of every attention.
        patch: Side of a patch, in pixels.
        side: Side of the square images that the stored positions are for, in patches.
        registers: Number of register tokens.
        offset: Added to the sides of the grid, in patches, when positions are resized. Without an
            offset, positions are resized to exactly the grid, with antialiasing.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        side: int,
        registers: int = 4,
        offset: float = 0.0,
    ):
        super().__init__()
        self.patch, self.heads, self.offset = patch, heads, offset
        self.depth, self.registers = depth, registers
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side * side + 1, width))
        if registers:
            self.register_tokens = nn.Parameter(0.02 * torch.randn(1, registers, width))
        self.patch_embed = PatchEmbedding(width, patch)
        self.blocks = nn.ModuleList(ViewsBlock(width, heads, eps=1e-6) for _ in range(depth))
        self.norm = layer_norm(width)

    def stack(self, name: str = "enc") -> Stack:
        """Return the stack of its blocks."""
        layout = TokenLayout(("class", *(f"register{i}" for i in range(self.registers))))
        blocks = (("self_attn", "mlp"),) * self.depth
        return Stack(name, self.cls_token.shape[-1], self.heads, blocks, (layout,))

    def forward(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, names: Sequence[str]
    ) -> list[Float[Tensor, "_ n d"]]:
        """Return the patch tokens of every view after the last norm.

        The streams that the tap knows may have another batch size than the images.

        Args:
            images: One batch a view, all of one size, normalised.
            tap: Called at every site.
            names: Name of each view's stream, such as `enc2`.
        """
        last = [tap.known(f"{name}.{self.depth - 1}.mlp") for name in names]
        known = [stream for stream in last if stream is not None]
        streams = known if len(known) == len(names) else self._run(images, tap, names)
        return [self.norm(stream)[:, 1 + self.registers :] for stream in streams]

    def positions(self, height: int, width: int) -> Float[Tensor, "1 n d"]:
        """Return the position embedding for images of a size in pixels, the class token's first.

        The stored positions are a square grid, which is resized to the grid of the image.
        """
        rows, columns = height // self.patch, width // self.patch
        stored = self.pos_embed[:, 1:]
        if (rows * columns, height) == (stored.shape[1], width):
            return self.pos_embed
        side = math.isqrt(stored.shape[1])
        square = stored.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if self.offset:
            scales = [(count + self.offset) / side for count in (rows, columns)]
            resized = F.interpolate(square, scale_factor=scales, mode="bicubic")
        else:
            resized = F.interpolate(square, (rows, columns), mode="bicubic", antialias=True)
        patches = resized.flatten(2).transpose(1, 2).to(stored.dtype)
        return torch.cat((self.pos_embed[:, :1], patches), 1)

    def embed(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, names: Sequence[str]
    ) -> list[Float[Tensor, "b n d"]]:
        """Return the input of the blocks for every view; arguments are those of `forward`."""

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            batch = torch.cat([images[i] for i in chosen])
            height, width = batch.shape[-2:]
            patches = self.patch_embed(batch)
            tokens = torch.cat((self.cls_token.expand(len(batch), -1, -1), patches), 1)
            tokens = tokens + self.positions(height, width)
            if not self.registers:
                return tokens.chunk(len(chosen))
            # Registers come after the class token and have no position.
            registers = self.register_tokens.expand(len(batch), -1, -1)
            return torch.cat((tokens[:, :1], registers, tokens[:, 1:]), 1).chunk(len(chosen))

        return sublayer(tap, [f"{name}.embed" for name in names], embed)

    def _run(self, images: Sequence[Tensor], tap: Tap, names: Sequence[str]) -> list[Tensor]:
        streams = self.embed(images, tap, names)
        for i, block in enumerate(self.blocks):
            streams = block(streams, None, tap, [f"{name}.{i}" for name in names])
        return streams
