"""DUSt3R: two photographs in, two pointmaps in the first camera's frame out.

Architecture: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, on the two-view
transformer of Weinzaepfel et al., "CroCo v2", ICCV 2023.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.encoded import MOST_BYTES, EncodedViews, Tokens
from prob3r.models.heads import DPTHead, LinearHead, decode_points
from prob3r.models.layers import DecoderBlock, EncoderBlock, RoPE2D, layer_norm, patch_positions
from prob3r.models.sites import Tap


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


class Output(NamedTuple):
    """What a model says of a batch of pairs, one tensor a view.

    Attributes:
        points: Pointmaps `(b, h, w, 3)` of views 1 and 2, both in camera 1's frame, up to scale.
        confidence: Confidences `(b, h, w)`, greater than 1.
    """

    points: tuple[Float[Tensor, "b h1 w1 3"], Float[Tensor, "b h2 w2 3"]]
    confidence: tuple[Float[Tensor, "b h1 w1"], Float[Tensor, "b h2 w2"]]


class DUSt3R(nn.Module):
    """A shared encoder, twin decoders that look at each other, and a head for each view."""

    architecture: ClassVar[str] = "dust3r"

    def __init__(self, config: DUSt3RConfig):
        super().__init__()
        self.config = c = config
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
        self._encoded_views: EncodedViews | None = None

    def _head(self) -> nn.Module:
        c = self.config
        if c.head == "linear":
            return LinearHead(c.dec_width, c.patch)
        return DPTHead((c.enc_width, c.dec_width, c.dec_width, c.dec_width))

    def forward(
        self,
        images1: Float[Tensor, "b 3 h1 w1"],
        images2: Float[Tensor, "b 3 h2 w2"],
        tap: Tap | None = None,
    ) -> Output:
        """Return the pointmaps and confidences of a batch of pairs.

        Args:
            images1: View 1, the reference, colours in [-1, 1].
            images2: View 2.
            tap: Called at every site, to read or to edit.

        Raises:
            Prob3rError: An image's sides are not multiples of the patch size.
        """
        encoded1, encoded2 = self.encode_pair(images1, images2, tap)
        states1, states2 = self.decode(encoded1, encoded2, tap)
        return self.read(states1, states2, encoded1.grid, encoded2.grid)

    def encode_pair(
        self, images1: Tensor, images2: Tensor, tap: Tap | None = None
    ) -> tuple[Tokens, Tokens]:
        """Return the encoder's output for both views, which run as one batch where sizes match.

        Within `reusing_views`, a view that was seen before is not encoded again, unless the tap
        wants to see the encoder at work.
        """
        watched = tap is not None and (tap.wants("enc1") or tap.wants("enc2"))
        if self._encoded_views and not watched and not torch.is_grad_enabled():
            return self._encoded_views(images1), self._encoded_views(images2)
        if images1.shape[2:] != images2.shape[2:]:
            encoded1 = self.encode(images1, _renamed(tap, "enc1"))
            return encoded1, self.encode(images2, _renamed(tap, "enc2"))
        both = self.encode(torch.cat((images1, images2)), _renamed(tap, "enc1", "enc2"))
        stream1, stream2 = both.stream.chunk(2)
        return Tokens(stream1, both.grid), Tokens(stream2, both.grid)

    @contextmanager
    def reusing_views(self, most_bytes: int = MOST_BYTES) -> Iterator[EncodedViews]:
        """Encode each view once for as long as this lasts; the weights must not change.

        For pairs that share views. Outputs differ from those without by rounding alone.

        Args:
            most_bytes: How much is kept; the views not asked for longest go first.
        """
        before, self._encoded_views = self._encoded_views, EncodedViews(self.encode, most_bytes)
        try:
            yield self._encoded_views
        finally:
            self._encoded_views = before

    def encode(self, images: Float[Tensor, "b 3 h w"], tap: Tap | None = None) -> Tokens:
        """Return the encoder's output, after its norm, for one batch of images."""
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
        """Return the encoder's output for embedded patches at given positions `(*b, n, 2)`."""
        tap = Tap() if tap is None else tap
        rope = self._rope(positions, self.config.enc_width // self.config.enc_heads)
        stream = tap("enc.embed", stream)
        for i, block in enumerate(self.enc_blocks):
            stream = block(stream, rope, tap, f"enc.{i}")
        return self.enc_norm(stream)

    def decode(
        self,
        encoded1: Tokens,
        encoded2: Tokens,
        tap: Tap | None = None,
        states: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each view's states: the encoder's output, then the stream after every block.

        The last state went through the decoders' shared norm; the others are raw.

        Args:
            encoded1: View 1's patches; with `states`, only the grid is used.
            encoded2: View 2's patches.
            tap: Called at every site of the blocks that run.
            states: The first states of an earlier run: this one goes on with the blocks that
                follow. One view may have a state more than the other; its block is not run.
        """
        tap = Tap() if tap is None else tap
        head_width = self.config.dec_width // self.config.dec_heads
        rope1, rope2 = (
            self._rope(self._decoder_positions(view, tokens), head_width)
            for view, tokens in ((1, encoded1), (2, encoded2))
        )
        given1, given2 = states or ([encoded1.stream], [encoded2.stream])
        states1, states2 = list(given1), list(given2)
        first = min(len(given1), len(given2)) - 1
        if first:
            x1, x2 = states1[first], states2[first]
        else:
            x1 = tap("dec1.embed", self._embed_for_decoder(1, encoded1.stream))
            x2 = tap("dec2.embed", self._embed_for_decoder(2, encoded2.stream))
        twins = list(enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True)))
        for i, (block1, block2) in twins[first:]:
            before1, before2 = x1, x2
            if len(states1) == i + 1:
                states1.append(block1(before1, before2, rope1, rope2, tap, f"dec1.{i}"))
            if len(states2) == i + 1:
                states2.append(block2(before2, before1, rope2, rope1, tap, f"dec2.{i}"))
            x1, x2 = states1[i + 1], states2[i + 1]
        # A last state that was given went through the norm before.
        if len(states1) > len(given1):
            states1[-1] = self.dec_norm(x1)
        if len(states2) > len(given2):
            states2[-1] = self.dec_norm(x2)
        return states1, states2

    def read(
        self,
        states1: Sequence[Tensor],
        states2: Sequence[Tensor],
        grid1: tuple[int, int],
        grid2: tuple[int, int],
    ) -> Output:
        """Return what the heads read off the decoders' states, in float32 whatever their dtype."""
        with torch.autocast(states1[-1].device.type, enabled=False):
            points1, confidence1 = decode_points(
                self.downstream_head1([s.float() for s in states1], grid1)
            )
            points2, confidence2 = decode_points(
                self.downstream_head2([s.float() for s in states2], grid2)
            )
        return Output((points1, points2), (confidence1, confidence2))

    def sites(self) -> list[str]:
        """Return the names of all residual sites, in the order in which they fire."""
        c = self.config
        encoder = ["embed", *(f"{i}.{s}" for i in range(c.enc_depth) for s in ("self_attn", "mlp"))]
        decoder = [
            f"dec{v}.{i}.{s}"
            for i in range(c.dec_depth)
            for v in (1, 2)
            for s in ("self_attn", "cross_attn", "mlp")
        ]
        return [
            *(f"enc{v}.{s}" for s in encoder for v in (1, 2)),
            "dec1.embed",
            "dec2.embed",
            *decoder,
        ]

    def attention_sites(self) -> list[str]:
        """Return the names of all attention sites, in the order in which they fire."""
        return [f"{site}.probs" for site in self.sites() if site.endswith("attn")]

    def width(self, site: str) -> int:
        """Return the width of the residual stream that a site belongs to."""
        return self.config.enc_width if site.startswith("enc") else self.config.dec_width

    def heads(self, site: str) -> int:
        """Return the number of heads of a site's sublayer."""
        return self.config.enc_heads if site.startswith("enc") else self.config.dec_heads

    def extra_tokens(self, stack: str) -> int:
        """Return how many tokens a stack such as `dec2` has after its patches."""
        return 0

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


def _renamed(tap: Tap | None, *stacks: str) -> Tap | None:
    return None if tap is None else _Renamed(tap, stacks)


class _Renamed(Tap):
    """Shows a tap the encoder's sites under the names of the views that share the batch."""

    def __init__(self, tap: Tap, stacks: tuple[str, ...]):
        self.tap = tap
        self.stacks = stacks

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        parts = tensor.chunk(len(self.stacks))
        names = (site.replace("enc", stack, 1) for stack in self.stacks)
        return torch.cat([self.tap(name, part) for name, part in zip(names, parts, strict=True)])

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        parts = zip(*(t.chunk(len(self.stacks)) for t in (queries, keys, values)), strict=True)
        names = (site.replace("enc", stack, 1) for stack in self.stacks)
        return torch.cat(
            [self.tap.attend(name, *part) for name, part in zip(names, parts, strict=True)]
        )


def _initialise(module: nn.Module) -> None:
    """Draw fresh weights as ViTs do: Xavier for linear layers, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
