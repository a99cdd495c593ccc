"""DUSt3R: two photographs in, two pointmaps in the first camera's frame out.

Architecture: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, on the two-view
transformer of Weinzaepfel et al., "CroCo v2", ICCV 2023.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.heads import DPTHead, LinearHead, decode_points, dpt_states
from prob3r.models.layers import (
    DecoderBlock,
    EncoderBlock,
    RoPE2D,
    Tokens,
    layer_norm,
    patch_positions,
)
from prob3r.models.protocol import LensHead, MultiViewModel, Prediction, Stack, TokenLayout
from prob3r.models.sites import Site, Tap


@dataclass(frozen=True)
class DUSt3RConfig:
    """The shape of a DUSt3R.

    Attributes:
        image_size: Height and width that the model was trained for, in pixels; it takes others.
        patch: Side of a square patch, in pixels.
        enc_width, enc_depth, enc_heads: Of the shared encoder.
        dec_width, dec_depth, dec_heads: Of each of the two decoders.
        head: `linear` or `dpt`.
        rope_base: Base of the rotary position embedding.
    """

    image_size: tuple[int, int]
    patch: int = 16
    enc_width: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_width: int = 768
    dec_depth: int = 12
    dec_heads: int = 12
    head: Literal["linear", "dpt"] = "linear"
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        counts = {k: v for k, v in asdict(self).items() if k not in ("head", "rope_base")}
        for name, value in counts.items():
            if min(value if name == "image_size" else (value,)) < 1:
                raise Prob3rError(f"{name} is {value}; it must be positive.")
        for stack in ("enc", "dec"):
            width, heads = counts[f"{stack}_width"], counts[f"{stack}_heads"]
            if width % (4 * heads):
                raise Prob3rError(
                    f"{stack}_width is {width}; it must be a multiple of 4 times {stack}_heads, "
                    f"which is {heads}, for the rotary embedding."
                )
        if self.head == "dpt" and self.patch != 16:
            raise Prob3rError(f"patch is {self.patch}; the dpt head gives 16 pixels to a patch.")
        if not 0 < self.rope_base < math.inf:
            raise Prob3rError(f"rope_base is {self.rope_base}; it must be finite and positive.")

    @property
    def blocks(self) -> int:
        """How many blocks the encoder and a decoder have."""
        return self.enc_depth + self.dec_depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DUSt3RConfig":
        """Return the configuration that `to_dict` gave; raise Prob3rError if it gave no such thing.

        Files are written by anyone, so types are checked here.
        """
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise Prob3rError(f"{', '.join(unknown)} is not known of a DUSt3R.")
        for name, value in values.items():
            if name == "image_size":
                pair = isinstance(value, list | tuple) and len(value) == 2
                good, form = pair and all(isinstance(n, int) for n in value), "two whole numbers"
            elif name == "head":
                good, form = value in ("linear", "dpt"), "'linear' or 'dpt'"
            elif name == "rope_base":
                good, form = isinstance(value, int | float), "a number"
            else:
                good, form = isinstance(value, int), "a whole number"
            if not good:
                raise Prob3rError(f"{name} is {value!r}; it must be {form}.")
        if "image_size" not in values:
            raise Prob3rError("image_size is missing; it must be two whole numbers.")
        rope_base = float(values.get("rope_base", cls.rope_base))
        return cls(**values | {"image_size": tuple(values["image_size"]), "rope_base": rope_base})


class DUSt3R(MultiViewModel):
    """A shared encoder, twin decoders that look at each other, and a head for each view."""

    architecture: ClassVar[str] = "dust3r"
    config_type = DUSt3RConfig
    most_views = 2
    encoder_cache: Callable[[Tensor], Tokens] | None = None

    def __init__(self, config: DUSt3RConfig):
        super().__init__(config)
        c = config
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, c.enc_width, c.patch, stride=c.patch)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.enc_width, c.enc_heads) for _ in range(c.enc_depth)
        )
        self.enc_norm = layer_norm(c.enc_width)
        self.decoder_embed = nn.Linear(c.enc_width, c.dec_width)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(c.dec_width, c.dec_heads) for _ in range(c.dec_depth)
        )
        self.dec_blocks2 = nn.ModuleList(
            DecoderBlock(c.dec_width, c.dec_heads) for _ in range(c.dec_depth)
        )
        self.dec_norm = layer_norm(c.dec_width)
        self.downstream_head1 = self._head()
        self.downstream_head2 = self._head()
        self.apply(_initialise)

    def _head(self) -> nn.Module:
        c = self.config
        if c.head == "linear":
            return LinearHead(c.dec_width, c.patch)
        return DPTHead((c.enc_width, c.dec_width, c.dec_width, c.dec_width))

    def declare(self) -> list[Stack]:
        """Return the encoder and the two decoders, as one stack of two views."""
        c = self.config
        encoder = (("self_attn", "mlp"),) * c.enc_depth
        decoder = (("self_attn", "cross_attn", "mlp"),) * c.dec_depth
        return [
            Stack("enc", c.enc_width, c.enc_heads, encoder),
            Stack("dec", c.dec_width, c.dec_heads, decoder, self.decoder_layouts),
        ]

    def forward(self, *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None) -> Prediction:
        """Return the pointmaps and confidences of a batch of pairs.

        Args:
            images: Views 1 and 2, the reference first, colours in [-1, 1].
            tap: Called at every site, to read or to edit.

        Raises:
            Prob3rError: There are not two views, or an image's sides are not multiples of the
                patch size.
        """
        if len(images) != 2:
            raise Prob3rError(f"A DUSt3R takes 2 views, and there are {len(images)}; give a pair.")
        encoded1, encoded2 = self.encode_pair(*images, tap=tap)
        states1, states2 = self.decode(encoded1, encoded2, tap)
        return self.read(states1, states2, encoded1.grid, encoded2.grid)

    def encode_pair(
        self, images1: Tensor, images2: Tensor, tap: Tap | None = None
    ) -> tuple[Tokens, Tokens]:
        """Return the encoder's output for both views, which run as one batch where sizes match.

        With an encoder cache, a view that was seen before is not encoded again, unless the tap
        wants to see inside the encoder.
        """
        if self.encoder_cache and not self._watched(tap) and not torch.is_grad_enabled():
            seen = [self.encoder_cache(images) for images in (images1, images2)]
            last = f"{self.config.enc_depth - 1}.mlp"
            if tap is not None:
                named = enumerate(seen, 1)
                seen = [Tokens(tap(f"enc{v}.{last}", stream), grid) for v, (stream, grid) in named]
        elif images1.shape[2:] != images2.shape[2:]:
            each = (("enc1", images1), ("enc2", images2))
            seen = [self.encoder_stream(images, _renamed(tap, name)) for name, images in each]
        else:
            both = self.encoder_stream(torch.cat((images1, images2)), _renamed(tap, "enc1", "enc2"))
            seen = [Tokens(stream, both.grid) for stream in both.stream.chunk(2)]
        first, second = (Tokens(self.enc_norm(stream), grid) for stream, grid in seen)
        return first, second

    def _watched(self, tap: Tap | None) -> bool:
        """Return whether a tap wants to see inside the encoder: more than its last stream."""
        if tap is None:
            return False
        last = (self.config.enc_depth - 1, "mlp")
        sites = self.stacks["enc"].sites(2)
        return any(tap.wants(str(s)) for s in sites if (s.block, s.sublayer) != last)

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Return the encoder's output, after its norm, for one batch of images."""
        stream, grid = self.encoder_stream(images)
        return Tokens(self.enc_norm(stream), grid)

    def encoder_stream(self, images: Float[Tensor, "b 3 h w"], tap: Tap | None = None) -> Tokens:
        """Return the stream after the encoder's last block for one batch of images."""
        known = None if tap is None else tap.known(f"enc.{self.config.enc_depth - 1}.mlp")
        if known is not None:
            height, width = images.shape[2:]
            return Tokens(known, patch_grid(height, width, self.config.patch))
        stream, grid = self.embed(images)
        return Tokens(self.encode_patches(stream, self._positions(grid, stream), tap), grid)

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Return the embedded patches of one batch of images, before the encoder."""
        patch = self.config.patch
        if images.shape[-2] % patch or images.shape[-1] % patch:
            size = f"{images.shape[-2]}x{images.shape[-1]}"
            raise Prob3rError(f"Images are {size} pixels; both sides must be multiples of {patch}.")
        embedded = self.patch_embed.get_submodule("proj")(images)
        return Tokens(embedded.flatten(2).transpose(1, 2), tuple(embedded.shape[2:]))

    def encode_patches(self, stream: Tensor, positions: Tensor, tap: Tap | None = None) -> Tensor:
        """Return the stream after the encoder's last block for embedded patches.

        Args:
            stream: The embedded patches.
            positions: Their rows and columns, `(*b, n, 2)`.
            tap: Called at every site.
        """
        tap = Tap() if tap is None else tap
        rope = self._rope(positions, self.config.enc_width // self.config.enc_heads)
        embedded = stream
        stream = tap.residual("enc.embed", lambda: embedded)
        for i, block in enumerate(self.enc_blocks):
            stream = block(stream, rope, tap, f"enc.{i}")
        return stream

    def decode(
        self, encoded1: Tokens, encoded2: Tokens, tap: Tap | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each view's states: the encoder's output, then the stream after every block.

        The last state went through the decoders' shared norm; the others are raw.

        Args:
            encoded1: View 1's patches.
            encoded2: View 2's patches.
            tap: Called at every site.
        """
        tap = Tap() if tap is None else tap
        head_width = self.config.dec_width // self.config.dec_heads
        rope1, rope2 = (
            self._rope(self._decoder_positions(view, tokens), head_width)
            for view, tokens in ((1, encoded1), (2, encoded2))
        )
        x1, x2 = (
            tap.residual(f"dec{view}.embed", partial(self._embed_for_decoder, view, tokens.stream))
            for view, tokens in ((1, encoded1), (2, encoded2))
        )
        states1, states2 = [encoded1.stream], [encoded2.stream]
        for i, (block1, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True)):
            # Both blocks read the other view's stream as it was before either of them.
            x1, x2 = (
                block1(x1, x2, rope1, rope2, tap, f"dec1.{i}"),
                block2(x2, x1, rope2, rope1, tap, f"dec2.{i}"),
            )
            states1.append(x1)
            states2.append(x2)
        states1[-1], states2[-1] = self.dec_norm(x1), self.dec_norm(x2)
        return states1, states2

    def read(
        self,
        states1: Sequence[Tensor],
        states2: Sequence[Tensor],
        grid1: tuple[int, int],
        grid2: tuple[int, int],
    ) -> Prediction:
        """Return what the heads read off the decoders' states, in float32 whatever their dtype."""
        with torch.autocast(states1[-1].device.type, enabled=False):
            points1, confidence1 = decode_points(self.downstream_head1(self._read(states1), grid1))
            points2, confidence2 = decode_points(self.downstream_head2(self._read(states2), grid2))
        return Prediction((points1, points2), (confidence1, confidence2))

    def lens_head(self) -> LensHead:
        """Return the decoders' last norm and the linear heads of both views."""
        heads = self.downstream_head1, self.downstream_head2
        linear = tuple(head.proj for head in heads if isinstance(head, LinearHead))
        if len(linear) < 2:
            raise Prob3rError(
                f"This model has a {self.config.head} head, which mixes patches and several "
                "sites; a lens needs a model with a linear head."
            )
        return LensHead("dec", self.dec_norm, linear)

    def _read(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the states that a head reads."""
        last = len(states) - 1
        chosen = (last,) if self.config.head == "linear" else dpt_states(last)
        return [states[i].float() for i in chosen]

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order in which they fire."""
        encoder, decoder = (stack.sites(views) for stack in self.stacks.values())
        # A block of decoder 1 runs as a whole before the same block of decoder 2.
        decoder.sort(key=lambda site: (-1 if site.block is None else site.block, site.view))
        return [str(site) for site in (*encoder, *decoder)]

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read."""
        if self.config.head == "linear":
            return super().head_sites(views)
        encoder = [Site("enc", 1, self.config.enc_depth - 1, "mlp")]
        decoder = [Site("dec", 1, n - 1, "mlp") for n in dpt_states(self.config.dec_depth)[1:]]
        return [str(site.of(view)) for site in (*encoder, *decoder) for view in (1, 2)]

    @property
    def decoder_layouts(self) -> tuple[TokenLayout, ...]:
        """Where special tokens stand in the decoders' streams, view by view."""
        return (TokenLayout(),)

    def _embed_for_decoder(self, view: int, encoded: Tensor) -> Tensor:
        """Return the input of a view's decoder."""
        return self.decoder_embed(encoded)

    def _decoder_positions(self, view: int, encoded: Tokens) -> Tensor:
        """Return the positions of a view's tokens in the decoder."""
        return self._positions(encoded.grid, encoded.stream)

    def _positions(self, grid: tuple[int, int], stream: Tensor) -> Tensor:
        return patch_positions(*grid, stream.device)

    def _rope(self, positions: Tensor, head_width: int) -> RoPE2D:
        return RoPE2D(positions, head_width, self.config.rope_base)


def _renamed(tap: Tap | None, *streams: str) -> Tap | None:
    return None if tap is None else _Renamed(tap, streams)


class _Renamed(Tap):
    """Shows a tap the encoder's sites under the names of the views that share the batch."""

    def __init__(self, tap: Tap, streams: tuple[str, ...]):
        self.tap = tap
        self.streams = streams

    def known(self, site: str) -> Tensor | None:
        parts = [self.tap.known(name) for name in self._names(site)]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        parts = zip(self._names(site), tensor.chunk(len(self.streams)), strict=True)
        return torch.cat([self.tap(name, part) for name, part in parts])

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        parts = zip(*(t.chunk(len(self.streams)) for t in (queries, keys, values)), strict=True)
        heads = zip(self._names(site), parts, strict=True)
        return torch.cat([self.tap.attend(name, *part) for name, part in heads])

    def _names(self, site: str) -> list[str]:
        return [site.replace("enc", stream, 1) for stream in self.streams]


def _initialise(module: nn.Module) -> None:
    """Draw fresh weights as ViTs do: Xavier for linear layers, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
