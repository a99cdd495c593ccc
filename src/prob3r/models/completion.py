"""Cross-view completion of a DUSt3R: the task that its encoder and decoder learn first."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.dust3r import DUSt3R
from prob3r.models.layers import RoPE2D, patch_positions
from prob3r.models.protocol import MultiViewModel, trunk
from prob3r.models.sites import Tap


def with_completion(model: MultiViewModel, tap: Tap | None = None) -> nn.Module:
    """Return a DUSt3R with a head for completion, and any other model as it is."""
    return CrossViewCompletion(model, tap=tap) if isinstance(model, DUSt3R) else model


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

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        others: Float[Tensor, "b 3 h w"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error on hidden patches, each with its pixels standardised.

        Args:
            images: View 1, whose patches are hidden, colours in [-1, 1].
            others: View 2.
            generator: Draws the hidden patches.
        """
        model = self.backbone
        b, c = len(images), model.config
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
        other = model.encoder_stream(others, self.tap).stream
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
