"""The base of the CroCo family: one encoder for two views, and decoders with cross-attention.

CroCo v2 (Weinzaepfel et al., ICCV 2023) completes a masked view. DUSt3R and MASt3R start from its
weights and have pointmap heads. Parameter names are those of the official checkpoints.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.configs import check_rope_base
from prob3r.models.layers import (
    DecoderBlock,
    EncoderBlock,
    InputProjection,
    RoPE2D,
    Tokens,
    layer_norm,
    patch_positions,
)
from prob3r.models.protocol import MultiViewModel, Stack, TokenLayout
from prob3r.models.sites import Tap

AnyConfig = TypeVar("AnyConfig", bound="TwoViewConfig")


@dataclass(frozen=True)
class TwoViewConfig:
    """The sizes that all models of the CroCo family have. Each architecture adds its own fields.

    Attributes:
        image_size: Height and width that the model was trained for, in pixels; others work, too.
        patch: Side of a square patch, in pixels.
        enc_width, enc_depth, enc_heads: Width, blocks and heads of the shared encoder.
        dec_width, dec_depth, dec_heads: Width, blocks and heads of each decoder.
    """

    NAME: ClassVar[str] = "CroCo"
    NUMBERS: ClassVar[tuple[str, ...]] = ("rope_base",)
    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {}

    image_size: tuple[int, int]
    patch: int = 16
    enc_width: int = 1024
    enc_depth: int = 24
    enc_heads: int = 16
    dec_width: int = 768
    dec_depth: int = 12
    dec_heads: int = 12

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        values = asdict(self)
        for name in (field.name for field in fields(TwoViewConfig)):
            value = values[name]
            if min(value if name == "image_size" else (value,)) < 1:
                raise Prob3rError(f"{name} is {value}; it must be positive.")
        for stack in ("enc", "dec"):
            width, heads = values[f"{stack}_width"], values[f"{stack}_heads"]
            if width % (4 * heads):
                raise Prob3rError(
                    f"{stack}_width is {width}; it must be a multiple of 4 times {stack}_heads, "
                    f"which is {heads}, for the rotary embedding."
                )
        check_rope_base(values["rope_base"])

    @property
    def blocks(self) -> int:
        """Number of blocks of the encoder and of one decoder together."""
        return self.enc_depth + self.dec_depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls: type[AnyConfig], values: dict[str, Any]) -> AnyConfig:
        """Return a configuration from the result of `to_dict`; raise Prob3rError if it is invalid.

        Files are not trusted, so types are checked here.
        """
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise Prob3rError(f"{', '.join(unknown)} is not known of a {cls.NAME}.")
        read: dict[str, Any] = {}
        for name, value in values.items():
            if name == "image_size":
                pair = isinstance(value, list | tuple) and len(value) == 2
                good, form = pair and all(isinstance(n, int) for n in value), "two whole numbers"
            elif name in cls.CHOICES:
                good, form = value in cls.CHOICES[name], " or ".join(map(repr, cls.CHOICES[name]))
            elif name in cls.NUMBERS:
                good, form = isinstance(value, int | float), "a number"
            else:
                good, form = isinstance(value, int), "a whole number"
            if not good:
                raise Prob3rError(f"{name} is {value!r}; it must be {form}.")
            made = {"image_size": tuple} | dict.fromkeys(cls.NUMBERS, float)
            read[name] = made[name](value) if name in made else value
        if "image_size" not in read:
            raise Prob3rError("image_size is missing; it must be two whole numbers.")
        return cls(**read)


class TwoViewModel(MultiViewModel):
    """A shared encoder, and one or two sequences of decoder blocks as one stack of two views.

    The constructor of an architecture calls this one, builds its heads, and then draws its weights
    with `initialise`.
    """

    most_views = 2
    encoder_cache: Callable[[Tensor], Tokens] | None = None
    decoders: ClassVar[tuple[str, ...]] = ("dec_blocks",)
    """The names of the decoders' modules."""

    dec_blocks: nn.ModuleList

    def __init__(self, config: TwoViewConfig):
        super().__init__(config)
        c = config
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, c.enc_width, c.patch, stride=c.patch)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(c.enc_width, c.enc_heads) for _ in range(c.enc_depth)
        )
        self.enc_norm = layer_norm(c.enc_width)
        self.decoder_embed = InputProjection(c.enc_width, c.dec_width)
        for name in self.decoders:
            blocks = (DecoderBlock(c.dec_width, c.dec_heads) for _ in range(c.dec_depth))
            self.add_module(name, nn.ModuleList(blocks))
        self.dec_norm = layer_norm(c.dec_width)

    def declare(self) -> list[Stack]:
        """Return the encoder and the two decoders, as one stack of two views."""
        c = self.config
        encoder = (("self_attn", "mlp"),) * c.enc_depth
        decoder = (("self_attn", "cross_attn", "mlp"),) * c.dec_depth
        return [
            Stack("enc", c.enc_width, c.enc_heads, encoder),
            Stack("dec", c.dec_width, c.dec_heads, decoder, self.decoder_layouts),
        ]

    def pair(self, images: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the two images; raise Prob3rError if there are not two."""
        if len(images) != 2:
            raise Prob3rError(
                f"A {type(self).__name__} takes 2 views, and there are {len(images)}; give a pair."
            )
        return images

    def encode_pair(
        self, images1: Tensor, images2: Tensor, tap: Tap | None = None
    ) -> tuple[Tokens, Tokens]:
        """Return the encoder's output for both views, which run as one batch if sizes match.

        With an encoder cache, a known view is not encoded again, unless the tap reads or edits
        sites inside the encoder.
        """
        if self.encoder_cache and not self._watched(tap) and not torch.is_grad_enabled():
            seen = [self.encoder_cache(images) for images in (images1, images2)]
            last = f"{self.config.enc_depth - 1}.mlp"
            if tap is not None:
                named = enumerate(seen, 1)
                seen = [Tokens(tap(f"enc{v}.{last}", stream), grid) for v, (stream, grid) in named]
        elif images1.shape[2:] != images2.shape[2:]:
            each = (("enc1", images1), ("enc2", images2))
            seen = [self.encoder_stream(images, renamed(tap, name)) for name, images in each]
        else:
            both = self.encoder_stream(torch.cat((images1, images2)), renamed(tap, "enc1", "enc2"))
            seen = [Tokens(stream, both.grid) for stream in both.stream.chunk(2)]
        first, second = (Tokens(self.enc_norm(stream), grid) for stream, grid in seen)
        return first, second

    def _watched(self, tap: Tap | None) -> bool:
        """Return whether a tap must be called at sites of the encoder other than the last one."""
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
        projection = self.patch_embed.get_submodule("proj")
        embedded = projection(images).to(projection.weight.dtype)  # as in `InputProjection`
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

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order in which they fire."""
        encoder, decoder = (stack.sites(views) for stack in self.stacks.values())
        # A block of decoder 1 runs as a whole before the same block of decoder 2.
        decoder.sort(key=lambda site: (-1 if site.block is None else site.block, site.view))
        return [str(site) for site in (*encoder, *decoder)]

    @property
    def decoder_layouts(self) -> tuple[TokenLayout, ...]:
        """Where special tokens stand in the decoders' streams, view by view."""
        return (TokenLayout(),)

    def _positions(self, grid: tuple[int, int], stream: Tensor) -> Tensor:
        return patch_positions(*grid, stream.device)

    def _rope(self, positions: Tensor, head_width: int) -> RoPE2D:
        return RoPE2D(positions, head_width, self.config.rope_base)


def renamed(tap: Tap | None, *streams: str) -> Tap | None:
    """Return a tap that gets the encoder's sites under the names of one or more streams."""
    return None if tap is None else _Renamed(tap, streams)


class _Renamed(Tap):
    """Calls a tap at the encoder's sites with the names of the views in the batch."""

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


def initialise(module: nn.Module) -> None:
    """Draw fresh weights as ViTs do: Xavier for linear layers, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
