"""DUSt3R: two photographs in, two pointmaps in the first camera's frame out.

Architecture: Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024, on the two-view
transformer of Weinzaepfel et al., "CroCo v2", ICCV 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.heads import DPTHead, LinearHead, decode_points, dpt_states
from prob3r.models.layers import Tokens
from prob3r.models.protocol import LensHead, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.models.two_view import TwoViewConfig, TwoViewModel, initialise


@dataclass(frozen=True)
class DUSt3RConfig(TwoViewConfig):
    """The shape of a DUSt3R: the sizes of `TwoViewConfig`, and what follows.

    Attributes:
        head: `linear` or `dpt`.
        rope_base: Base of the rotary position embedding.
    """

    NAME: ClassVar[str] = "DUSt3R"
    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {"head": ("linear", "dpt")}

    head: str = "linear"
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        super().__post_init__()
        if self.head != "linear" and self.patch != 16:
            raise Prob3rError(
                f"patch is {self.patch}; the {self.head} head gives 16 pixels to a patch."
            )

    def build(self) -> "DUSt3R":
        """Return a model of this shape with random weights."""
        return DUSt3R(self)


class DUSt3R(TwoViewModel):
    """A shared encoder, two decoders that attend to each other, and a head for each view."""

    architecture: ClassVar[str] = "dust3r"
    config_type = DUSt3RConfig
    decoders = ("dec_blocks", "dec_blocks2")
    dec_blocks2: nn.ModuleList

    def __init__(self, config: DUSt3RConfig):
        super().__init__(config)
        self.downstream_head1 = self._head()
        self.downstream_head2 = self._head()
        self.apply(initialise)

    def _head(self) -> nn.Module:
        c = self.config
        if c.head == "linear":
            return LinearHead(c.dec_width, c.patch)
        return DPTHead((c.enc_width, c.dec_width, c.dec_width, c.dec_width))

    def forward(self, *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None) -> Prediction:
        """Return the pointmaps and confidences of a batch of pairs.

        Args:
            images: Views 1 and 2, the reference first, colours in [-1, 1].
            tap: Called at every site, to read or to edit.

        Raises:
            Prob3rError: There are not two views, or an image's sides are not multiples of the
                patch size.
        """
        encoded1, encoded2 = self.encode_pair(*self.pair(images), tap=tap)
        states1, states2 = self.decode(encoded1, encoded2, tap)
        return self.read(states1, states2, encoded1.grid, encoded2.grid)

    def decode(
        self, encoded1: Tokens, encoded2: Tokens, tap: Tap | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each view's states: the encoder's output, then the stream after every block.

        The last state is after the decoders' shared norm; the others are before it.

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
        """Return the outputs of the heads for the decoders' states, in float32 for any dtype."""
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

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read."""
        if self.config.head == "linear":
            return super().head_sites(views)
        encoder = [Site("enc", 1, self.config.enc_depth - 1, "mlp")]
        decoder = [Site("dec", 1, n - 1, "mlp") for n in dpt_states(self.config.dec_depth)[1:]]
        return [str(site.of(view)) for site in (*encoder, *decoder) for view in (1, 2)]

    def _embed_for_decoder(self, view: int, encoded: Tensor) -> Tensor:
        """Return the input of a view's decoder."""
        return self.decoder_embed(encoded)

    def _decoder_positions(self, view: int, encoded: Tokens) -> Tensor:
        """Return the positions of a view's tokens in the decoder."""
        return self._positions(encoded.grid, encoded.stream)
