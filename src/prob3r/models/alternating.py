"""Models whose trunk alternates between frame attention and global attention.

VGGT, π³ and Depth Anything 3 are such models. Architecture: Wang et al., "VGGT: Visual Geometry
Grounded Transformer", CVPR 2025. Parameter names are those of the official checkpoints.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.dinov2 import DINOv2, PatchEmbedding
from prob3r.models.inputs import common_size
from prob3r.models.layers import RoPE2D, ViewsBlock, patch_positions, sublayer
from prob3r.models.protocol import (
    Cameras,
    LensHead,
    MultiViewModel,
    Prediction,
    Stack,
    TokenLayout,
)
from prob3r.models.sites import Site, Tap

SUBLAYERS = ("self_attn", "mlp", "global_attn", "global_mlp")
"""What a block of the trunk is made of: a frame block, then a global block."""


class Layer(NamedTuple):
    """The streams `(b, n, d)` of all views in one block: after its frame and its global part."""

    frame: list[Tensor]
    joint: list[Tensor]

    def joined(self, view: int, tokens: slice) -> Float[Tensor, "b n d2"]:
        """Return what the heads read of chosen tokens of a view (from 0): both, frame first."""
        return torch.cat((self.frame[view][:, tokens], self.joint[view][:, tokens]), -1)


def alternate(
    frame_blocks: Iterable[nn.Module],
    global_blocks: Iterable[nn.Module],
    streams: Sequence[Float[Tensor, "b n d"]],
    own: RoPE2D,
    every: RoPE2D,
    tap: Tap,
    kept: Collection[int],
    stack: str = "dec",
) -> dict[int, Layer]:
    """Return the streams of the blocks in `kept`.

    Args:
        frame_blocks: A `ViewsBlock` for each block, over each view's tokens.
        global_blocks: A `ViewsBlock` for each block, over the tokens of all views.
        streams: The input of every view.
        own: Rotary embedding of the tokens of one view.
        every: Rotary embedding of the tokens of all views, one view after another.
        tap: Called at every site.
        kept: Numbers of the blocks whose streams are returned.
        stack: Name of the stack.
    """
    names = [f"{stack}{view + 1}" for view in range(len(streams))]
    layers: dict[int, Layer] = {}
    for i, (frame, joint) in enumerate(zip(frame_blocks, global_blocks, strict=True)):
        blocks = [f"{name}.{i}" for name in names]
        inner = frame(streams, own, tap, blocks)
        streams = joint(inner, every, tap, blocks)
        if i in kept:
            layers[i] = Layer(inner, list(streams))
    return layers


def rope_of(
    grid: tuple[int, int],
    special: int,
    head_width: int,
    base: float,
    views: int,
    device: torch.device,
    *,
    apart: bool = True,
) -> RoPE2D:
    """Return the rotary embedding of the tokens of all views, one view after another.

    Args:
        grid: Rows and columns of the patches. Their positions count from 1.
        special: Number of special tokens before the patches. Their position is 0, so they are not
            rotated.
        head_width: Width of a head.
        base: Base of the embedding.
        views: Number of views. All views have the same positions.
        device: Device of the embedding.
        apart: Whether the positions of patches are their rows and columns. If not, all of them are
            at (1, 1).
    """
    patches = patch_positions(*grid, device) + 1
    patches = patches if apart else torch.ones_like(patches)
    positions = F.pad(patches, (0, 0, special, 0)).repeat(views, 1)
    return RoPE2D(positions, head_width, base)


class AlternatingModel(MultiViewModel):
    """Base class of models with such a trunk: their heads read its end, or any block of it.

    The trunk is the stack `dec`. Heads that are stacks themselves come after it. `name` is the name
    of the model in messages. `early` is one sentence on what the heads read if they are applied to
    an earlier block.
    """

    name: ClassVar[str]
    early: ClassVar[str]

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """Numbers of the trunk's blocks that the heads read, in order; the last is its last one."""
        raise NotImplementedError

    def layers(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, kept: Collection[int]
    ) -> dict[int, Layer]:
        """Return the streams of the trunk's blocks in `kept`.

        Args:
            images: One batch a view, all of one size, colours in [-1, 1].
            tap: Called at every site.
            kept: Numbers of blocks.
        """
        raise NotImplementedError

    def read(self, layers: Mapping[int, Layer], size: tuple[int, int], tap: Tap) -> Prediction:
        """Return the prediction of the heads.

        Args:
            layers: The streams to read for each block of `head_blocks`.
            size: Height and width of the images, in pixels.
            tap: Called at every site of the heads.
        """
        raise NotImplementedError

    def cameras(self, layer: Layer, size: tuple[int, int], tap: Tap) -> Cameras:
        """Return the cameras that the model predicts from one block of the trunk, as in `read`."""
        raise NotImplementedError

    def lens_head(self) -> LensHead:
        """Raise Prob3rError, as the heads are not linear; they are read by `at_blocks` instead."""
        raise Prob3rError(
            f"A {self.name} has no linear head, which a lens needs; read its own heads at any "
            "block by `prob3r.probes.at_blocks`, or use linear or mlp probes."
        )

    def forward(self, *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None) -> Prediction:
        """Return the prediction for a batch of scenes.

        Args:
            images: One batch a view, the reference first, all of one size, colours in [-1, 1].
            tap: Called at every site, to read or to edit.

        Raises:
            Prob3rError: There is no view, views differ in size, or an image's sides are not
                multiples of the patch size.
        """
        tap = Tap() if tap is None else tap
        size = common_size(images, self.config.patch, self.name)
        return self.read(self.layers(images, tap, self.head_blocks), size, tap)

    def at_blocks(
        self, blocks: Iterable[int], *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None
    ) -> Iterator[Prediction]:
        """Yield the heads' predictions at each of some blocks of the trunk; see `early`.

        The model runs once. At the last block, the prediction is that of the model. The tap is
        called at the sites of the trunk once, and at those of the heads for each block.
        """
        tap = Tap() if tap is None else tap
        size = common_size(images, self.config.patch, self.name)
        layers = self.layers(images, tap, range(self.stacks["dec"].blocks))
        for block in blocks:
            yield self.read({b: layers[min(b, block)] for b in self.head_blocks}, size, tap)

    def cameras_at_blocks(
        self, blocks: Iterable[int], *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None
    ) -> Iterator[Cameras]:
        """Yield the cameras alone that `at_blocks` yields, without the cost of the other heads."""
        tap = Tap() if tap is None else tap
        size = common_size(images, self.config.patch, self.name)
        layers = self.layers(images, tap, range(self.stacks["dec"].blocks))
        for block in blocks:
            yield self.cameras(layers[block], size, tap)

    def reads(self, site: str, views: int = 2) -> list[str]:
        """Return the residual sites that a sublayer reads, its own stream's first.

        A head that is a stack starts from both parts of the trunk's last block.
        """
        place, names = Site.parse(site), list(self.stacks)
        if place.block is None and names.index(place.stack) > names.index("dec"):
            last = Site("dec", place.view, self.head_blocks[-1], "global_mlp")
            return [str(last), str(replace(last, sublayer="mlp"))]
        return super().reads(site, views)


class Alternating(nn.Module):
    """A trunk that alternates between frame and global attention.

    Every view has a camera token and register tokens before its patches. These tokens have two sets
    of learned initial values: one for view 1, and one for all other views. Nothing else in the
    input distinguishes the views.

    Args:
        embedding: Makes the patch tokens.
        width: Width of the stream.
        depth: Number of frame blocks, which is also the number of global blocks.
        heads: Heads of every attention.
        patch: Side of a patch, in pixels.
        registers: Register tokens of each view.
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
        grid = patch_grid(images[0].shape[-2], images[0].shape[-1], self.patch)
        registers, width = self.register_token.shape[2:]
        own, every = (
            rope_of(grid, 1 + registers, width // self.heads, self.rope_base, n, images[0].device)
            for n in (1, count)
        )
        return alternate(self.frame_blocks, self.global_blocks, streams, own, every, tap, kept)

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
