"""CroCo v2: completes a view with hidden patches from a second view of the same scene.

DUSt3R and MASt3R start from its weights. It was not trained on pointmaps. Architecture: Weinzaepfel
et al., "CroCo v2: Improved Cross-view Completion Pre-training for Stereo Matching and Optical
Flow", ICCV 2023.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.dinov2 import imagenet_normalised
from prob3r.models.layers import RoPE2D, Tokens
from prob3r.models.protocol import NO_POINTMAPS, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.models.two_view import TwoViewConfig, TwoViewModel, initialise, renamed


@dataclass(frozen=True)
class CroCoConfig(TwoViewConfig):
    """The shape of a CroCo v2: the sizes of `TwoViewConfig`, and what follows.

    Attributes:
        mask_ratio: Share of the patches that `draw_mask` hides.
        rope_base: Base of the rotary position embedding.
    """

    NAME: ClassVar[str] = "CroCo"
    NUMBERS: ClassVar[tuple[str, ...]] = ("rope_base", "mask_ratio")

    mask_ratio: float = 0.9
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        super().__post_init__()
        if not 0 <= self.mask_ratio < 1:
            raise Prob3rError(f"mask_ratio is {self.mask_ratio}; it must be from 0 to below 1.")

    def build(self) -> "CroCo":
        """Return a model of this shape with random weights."""
        return CroCo(self)


class CroCo(TwoViewModel):
    """A shared encoder, one decoder, and a linear head that gives the colours of every patch.

    `model(image1, image2)` predicts the patches of both views with nothing hidden. The decoder
    stream `dec1` is view 1, which attends to view 2. `dec2` is view 2, which attends to view 1.
    Both run through the same decoder blocks. In contrast to DUSt3R, cross-attention in all blocks
    reads the other view's input of the decoder (`dec2.embed` for view 1). There are no pointmaps;
    the prediction has `patches`.
    """

    architecture: ClassVar[str] = "croco"
    config_type = CroCoConfig
    predicts_pointmaps = False

    def __init__(self, config: CroCoConfig):
        super().__init__(config)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, config.dec_width))
        self.prediction_head = nn.Linear(config.dec_width, 3 * config.patch**2)
        self.apply(initialise)

    def forward(self, *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None) -> Prediction:
        """Return the predicted patches of both views, each from the other, with nothing hidden.

        Args:
            images: Views 1 and 2, colours in [-1, 1].
            tap: Called at every site, to read or to edit.

        Raises:
            Prob3rError: There are not two views, or an image's sides are not multiples of the
                patch size.
        """
        tap = Tap() if tap is None else tap
        first, second = self.encode_pair(*self.pair(images), tap=tap)
        rope1, rope2 = self._decoder_rope(first), self._decoder_rope(second)
        input1 = tap.residual("dec1.embed", lambda: self.decoder_embed(first.stream))
        input2 = tap.residual("dec2.embed", lambda: self.decoder_embed(second.stream))
        x1, x2 = input1, input2
        for i, block in enumerate(self.dec_blocks):
            x1 = block(x1, input2, rope1, rope2, tap, f"dec1.{i}")
            x2 = block(x2, input1, rope2, rope1, tap, f"dec2.{i}")
        return Prediction(NO_POINTMAPS, NO_POINTMAPS, patches=(self.read(x1), self.read(x2)))

    def complete(
        self,
        image1: Float[Tensor, "b 3 h w"],
        image2: Float[Tensor, "b 3 h2 w2"],
        mask: Bool[Tensor, "b n"] | None = None,
        tap: Tap | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Return the patches of view 1, completed from view 2.

        Patches are in row-major order. The colours of a patch are row by row, column by column,
        channel last, and normalised as the target of the training was; see `targets`.

        Args:
            image1: The view with hidden patches, colours in [-1, 1].
            image2: The other view, with nothing hidden.
            mask: Whether each patch of view 1 is hidden, row by row. All scenes must have the same
                number of hidden patches. None hides nothing.
            tap: Called at the sites of the encoder, of `dec1`, and at `dec2.embed`. The encoder
                sees only the visible patches of view 1.

        Raises:
            Prob3rError: An image's sides are not multiples of the patch size, or the mask does not
                fit view 1.
        """
        tap = Tap() if tap is None else tap
        if mask is None:
            first, second = self.encode_pair(image1, image2, tap)
        else:
            first = self._encode_visible(image1, mask, tap)
            stream, grid = self.encoder_stream(image2, renamed(tap, "enc2"))
            second = Tokens(self.enc_norm(stream), grid)
        rope1, rope2 = self._decoder_rope(first), self._decoder_rope(second)
        x = tap.residual("dec1.embed", lambda: self._with_hidden(first.stream, mask))
        memory = tap.residual("dec2.embed", lambda: self.decoder_embed(second.stream))
        for i, block in enumerate(self.dec_blocks):
            x = block(x, memory, rope1, rope2, tap, f"dec1.{i}")
        return self.read(x)

    def read(self, stream: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """Return the patches that the head predicts from a decoder's last stream, in float32."""
        with torch.autocast(stream.device.type, enabled=False):
            patches: Tensor = self.prediction_head(self.dec_norm(stream.float()))
        return patches

    def draw_mask(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator
    ) -> Bool[Tensor, "b n"]:
        """Return random patches to hide: the share `mask_ratio` of every image, rounded down."""
        rows, columns = self._grid(images)
        count = rows * columns
        order = torch.rand(len(images), count, generator=generator).argsort(-1).argsort(-1)
        return (order < int(self.config.mask_ratio * count)).to(images.device)

    def targets(
        self, images: Float[Tensor, "b 3 h w"], normalised: bool = True
    ) -> Float[Tensor, "b n c"]:
        """Return the patches of images as the model is trained to complete them.

        Colours are normalised with the statistics of ImageNet.

        Args:
            images: Colours in [-1, 1].
            normalised: Whether each patch is normalised to mean 0 and variance 1, as in the
                training of CroCo v2.
        """
        rows, columns = self._grid(images)
        cells = imagenet_normalised(images).unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
        # b c rows p columns p -> b n p*p*c
        patches = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        if not normalised:
            return patches
        variance, mean = torch.var_mean(patches, -1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def reads(self, site: str, views: int = 2) -> list[str]:
        """Return the residual sites that a sublayer reads, its own stream's first."""
        found = super().reads(site, views)
        place = Site.parse(site)
        if place.sublayer != "cross_attn":
            return found
        return [found[0], *(str(Site("dec", v, None, "embed")) for v in place.key_views(views))]

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Return the embedded patches of one batch of images, before the encoder."""
        return super().embed(imagenet_normalised(images))

    def _encode_visible(self, images: Tensor, mask: Tensor, tap: Tap) -> Tokens:
        """Return the encoder's output for the patches that are not hidden."""
        stream, grid = self.embed(images)
        visible = ~_checked(mask, stream)
        positions = self._positions(grid, stream).expand(len(stream), -1, -1)
        kept, places = (t[visible].unflatten(0, (len(t), -1)) for t in (stream, positions))
        return Tokens(self.enc_norm(self.encode_patches(kept, places, renamed(tap, "enc1"))), grid)

    def _with_hidden(self, encoded: Tensor, mask: Tensor | None) -> Tensor:
        """Return the decoder's input: embedded patches, and the mask token in hidden places."""
        embedded: Tensor = self.decoder_embed(encoded)
        if mask is None:
            return embedded
        tokens = self.mask_token.to(embedded.dtype).expand(*mask.shape, -1)
        return tokens.masked_scatter(~mask[..., None], embedded)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        return patch_grid(images.shape[-2], images.shape[-1], self.config.patch)

    def _decoder_rope(self, tokens: Tokens) -> RoPE2D:
        positions = self._positions(tokens.grid, tokens.stream)
        return self._rope(positions, self.config.dec_width // self.config.dec_heads)


def completion_loss(
    patches: Float[Tensor, "b n c"],
    targets: Float[Tensor, "b n c"],
    mask: Bool[Tensor, "b n"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of completed patches: of the hidden ones, or of all."""
    errors = (patches - targets).square().mean(-1)
    return errors.mean() if mask is None else errors[mask].mean()


def _checked(mask: Tensor, stream: Tensor) -> Tensor:
    """Return a mask; raise Prob3rError unless it fits a stream of all patches."""
    if mask.dtype != torch.bool or mask.shape != stream.shape[:2]:
        raise Prob3rError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; it must be boolean, of shape "
            f"{tuple(stream.shape[:2])}."
        )
    hidden = mask.sum(1)
    if (hidden != hidden[0]).any() or hidden[0] == mask.shape[1]:
        raise Prob3rError(
            f"mask hides {', '.join(map(str, hidden.tolist()))} of {mask.shape[1]} patches; it "
            "must hide as many in every scene, and not all."
        )
    return mask
