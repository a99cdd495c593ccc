"""The objectives of models of two views: to complete a masked view, and to regress pointmaps."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.geometry import norm_factor, normalise
from prob3r.models import DUSt3R, PosedDUSt3R, Prediction
from prob3r.models.layers import RoPE2D, Tokens, patch_positions
from prob3r.models.protocol import trunk
from prob3r.models.sites import Tap
from prob3r.scenes.views import Pair, Views
from prob3r.training.objectives import ALPHA, Objective, confident_error
from prob3r.training.recipe import Stage


class CrossViewCompletion(nn.Module):
    """Completes a masked view 1 from view 2 (Weinzaepfel et al., CroCo, NeurIPS 2022).

    The backbone's encoder sees the visible patches of view 1 and all of view 2. Mask tokens stand
    for the hidden patches in its first decoder, which attends to the encoding of view 2. A linear
    layer predicts the pixels.
    """

    def __init__(self, backbone: DUSt3R, visible: float = 0.15, tap: Tap | None = None):
        super().__init__()
        c = backbone.config
        self.backbone = backbone
        self.visible = visible
        self.tap = tap or Tap()
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.dec_width))
        self.prediction_head = nn.Linear(c.dec_width, 3 * c.patch * c.patch)

    def forward(self, pair: Pair, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error on hidden patches, each with its pixels standardised."""
        model, images = self.backbone, pair.view1.image
        b, c = len(pair), model.config
        stream, grid = model.embed(images)
        n = stream.shape[1]
        order = torch.rand(b, n, generator=generator).argsort(1).to(images.device)
        shown = order[:, : max(1, round(self.visible * n))].unsqueeze(-1)
        positions = patch_positions(*grid, images.device)
        places = positions.expand(b, n, 2).take_along_dim(shown, 1)
        seen = model.enc_norm(
            model.encode_patches(stream.take_along_dim(shown, 1), places, self.tap)
        )
        embedded = model.decoder_embed(seen)
        tokens = self.mask_token.to(embedded).expand(b, n, -1)
        tokens = tokens.scatter(1, shown.expand(-1, -1, c.dec_width), embedded)
        other = model.encoder_stream(pair.view2.image, self.tap).stream
        memory = model.decoder_embed(model.enc_norm(other))
        rope = RoPE2D(positions, c.dec_width // c.dec_heads, c.rope_base)
        sites = f"{trunk(model).name}1"
        for i, block in enumerate(model.dec_blocks):
            tokens = block(tokens, memory, rope, rope, self.tap, f"{sites}.{i}")
        predicted = self.prediction_head(model.dec_norm(tokens))
        target = F.pixel_unshuffle(images, c.patch).flatten(2).transpose(1, 2)
        target = F.layer_norm(target, target.shape[-1:])
        hidden = torch.ones(b, n, 1, device=images.device).scatter(1, shown, 0.0)
        return ((predicted - target).square().mean(-1, keepdim=True) * hidden).sum() / hidden.sum()


class _Pairs(Objective):
    """An objective of a DUSt3R, whose module also holds the head for completion."""

    module: CrossViewCompletion

    def __init__(self, module: CrossViewCompletion, stage: Stage, seed: int, tap: Tap):
        super().__init__(module, stage, seed, tap)
        self.model = module.backbone

    @classmethod
    def trains(cls, module: nn.Module) -> bool:
        """Return whether the model is a DUSt3R with its head for completion."""
        return isinstance(module, CrossViewCompletion)


class Completion(_Pairs):
    """Cross-view completion, as in CroCo."""

    validated: ClassVar[bool] = False

    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the mean squared error of the hidden pixels."""
        assert isinstance(scenes, Pair)
        generator = torch.Generator().manual_seed(self.seed * 2**26 + number)
        loss: Tensor = self.module(scenes, generator)
        return loss

    def end(self) -> None:
        """Copy the decoder that learned completion into view 2's decoder, as in DUSt3R."""
        self.model.dec_blocks2.load_state_dict(self.model.dec_blocks.state_dict())


class Pointmaps(_Pairs):
    """DUSt3R's loss, or that of a `PosedDUSt3R`."""

    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the loss of the pointmaps."""
        assert isinstance(scenes, Pair)
        model, (encoded1, encoded2) = self.model, self.encode(scenes)
        states1, states2 = model.decode(encoded1, encoded2, self.tap)
        output = model.read(states1, states2, encoded1.grid, encoded2.grid)
        if isinstance(model, PosedDUSt3R):
            return posed_loss(output, model.pose(states2), scenes)
        return pointmap_loss(output, scenes)

    def encode(self, pair: Pair) -> tuple[Tokens, Tokens]:
        """Return the encoder's output for both views; each image of a batch is encoded once."""
        one, two = pair.view1.image, pair.view2.image
        if self.stage.symmetric:  # the second half is the first with its views exchanged
            half = len(pair) // 2
            both = self._encoded(torch.cat((one[:half], two[:half])))
            exchanged = torch.cat(both.stream.chunk(2)[::-1])
            return both, Tokens(exchanged, both.grid)
        both = self._encoded(torch.cat((one, two)))
        first, second = both.stream.chunk(2)
        return Tokens(first, both.grid), Tokens(second, both.grid)

    def _encoded(self, images: Tensor) -> Tokens:
        stream, grid = self.model.encoder_stream(images, self.tap)
        return Tokens(self.model.enc_norm(stream), grid)


def pointmap_loss(output: Prediction, pair: Pair, alpha: float = ALPHA) -> Float[Tensor, ""]:
    """Return DUSt3R's confidence-weighted regression loss (Wang et al. 2024, eq. 4), both views.

    Predicted and true pointmaps are each normalised over both views together.
    """
    predicted = normalise(output.points, pair.valid)
    true = normalise(pair.points, pair.valid)
    views = zip(predicted, output.confidence, true, pair.valid, strict=True)
    return torch.stack([confident_error(p, c, t, v, alpha) for p, c, t, v in views]).sum()


def posed_loss(
    output: Prediction,
    pose: tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]],
    pair: Pair,
    alpha: float = ALPHA,
) -> Float[Tensor, ""]:
    """Return the loss of a `PosedDUSt3R`: that of both pointmaps, plus that of the local pointmap.

    The local pointmap is view 2's in its own camera's frame, by the predicted pose. If view 2's
    points are right in both frames, this pose must be the camera's.

    Args:
        output: Its pointmaps and confidences.
        pose: The predicted rotation and translation of camera 2 in camera 1's frame.
        pair: The truth.
        alpha: As in `confident_error`.
    """
    rotation, translation = pose
    unit, true_unit = (
        norm_factor(points, pair.valid)[:, None, None, None]
        for points in (output.points, pair.points)
    )
    local = torch.einsum("bji,bhwj->bhwi", rotation, output.points[1] - translation[:, None, None])
    alone = confident_error(
        local / unit,
        output.confidence[1],
        pair.view2.points / true_unit,
        pair.valid[1],
        alpha,
    )
    return pointmap_loss(output, pair, alpha) + alone
