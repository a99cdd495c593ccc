"""The trunk of VGGT: frame attention and global attention in turn, over special and patch tokens.

Architecture: Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025. Parameter names
are those of the official checkpoints.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.geometry import patch_grid
from prob3r.models.dinov2 import DINOv2, PatchEmbedding
from prob3r.models.layers import RoPE2D, ViewsBlock, patch_positions, sublayer
from prob3r.models.protocol import Stack, TokenLayout
from prob3r.models.sites import Tap

SUBLAYERS = ("self_attn", "mlp", "global_attn", "global_mlp")
"""What a block of the trunk is made of: a frame block, then a global block."""


class Layer(NamedTuple):
    """The streams `(b, n, d)` of all views in one block: after its frame and its global part."""

    frame: list[Tensor]
    joint: list[Tensor]

    def joined(self, view: int, tokens: slice) -> Float[Tensor, "b n d2"]:
        """Return what the heads read of chosen tokens of a view (from 0): both, frame first."""
        return torch.cat((self.frame[view][:, tokens], self.joint[view][:, tokens]), -1)


class Alternating(nn.Module):
    """Frame and global attention in turn.

    Every view has a camera token and register tokens before its patches. These have two sets of
    starting values: the first is for view 1, the second for all other views. Nothing else tells
    the views apart.

    Args:
        embedding: Makes the patch tokens.
        width: Of the stream.
        depth: Number of frame blocks, and of global blocks.
        heads: Of every attention.
        patch: Side of a patch, in pixels.
        registers: How many register tokens a view has.
        rope_base: Base of the rotary position embedding.
    """

    def __init__(
        self,
        embedding: DINOv2 | PatchEmbedding,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        registers: int,
        rope_base: float,
    ):
        super().__init__()
        self.patch, self.heads, self.rope_base = patch, heads, rope_base
        self.camera_token = nn.Parameter(1e-6 * torch.randn(1, 2, 1, width))
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 2, registers, width))
        self.patch_embed = embedding
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(ViewsBlock(width, heads, joint=joint, qk_norm=True) for _ in range(depth))
            for joint in (False, True)
        )

    def stack(self, name: str = "dec") -> Stack:
        """Return the stack of its blocks."""
        registers, width = self.register_token.shape[2:]
        layout = TokenLayout(("camera", *(f"register{i}" for i in range(registers))))
        return Stack(name, width, self.heads, (SUBLAYERS,) * len(self.frame_blocks), (layout,))

    def forward(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, kept: Collection[int]
    ) -> dict[int, Layer]:
        """Return the streams of the blocks in `kept`.

        Args:
            images: One batch a view, all of one size, normalised.
            tap: Called at every site.
            kept: Numbers of blocks.
        """
        count, names = len(images), [f"dec{view + 1}" for view in range(len(images))]

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            return [
                torch.cat((self._special(i, patches), patches), 1)
                for i, patches in zip(chosen, self._patches(images, tap, chosen), strict=True)
            ]

        streams = sublayer(tap, [f"{name}.embed" for name in names], embed)
        own, every = self._rope(images[0], 1), self._rope(images[0], count)
        layers: dict[int, Layer] = {}
        for i, (frame, joint) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            blocks = [f"{name}.{i}" for name in names]
            inner = frame(streams, own, tap, blocks)
            streams = joint(inner, every, tap, blocks)
            if i in kept:
                layers[i] = Layer(inner, streams)
        return layers

    def _patches(
        self, images: Sequence[Tensor], tap: Tap, chosen: Sequence[int]
    ) -> Sequence[Tensor]:
        """Return the patch tokens of chosen views."""
        batch = [images[i] for i in chosen]
        if isinstance(self.patch_embed, DINOv2):
            tokens: Sequence[Tensor] = self.patch_embed(batch, tap, [f"enc{i + 1}" for i in chosen])
            return tokens
        return self.patch_embed(torch.cat(batch)).chunk(len(chosen))

    def _special(self, view: int, patches: Tensor) -> Float[Tensor, "b s d"]:
        """Return the special tokens of a view, which counts from 0 here."""
        chosen = min(view, 1)
        tokens = torch.cat((self.camera_token[:, chosen], self.register_token[:, chosen]), 1)
        return tokens.expand(len(patches), -1, -1)

    def _rope(self, images: Tensor, count: int) -> RoPE2D:
        """Return the rotary embedding of the tokens of so many views.

        Patches count from 1; special tokens are at 0, so that they are not turned.
        """
        rows, columns = patch_grid(images.shape[-2], images.shape[-1], self.patch)
        registers, width = self.register_token.shape[2:]
        patches = patch_positions(rows, columns, images.device) + 1
        positions = F.pad(patches, (0, 0, 1 + registers, 0)).repeat(count, 1)
        return RoPE2D(positions, width // self.heads, self.rope_base)
