"""The objectives of models of two views: to complete a masked view, and to regress pointmaps."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import norm_factor, normalise
from prob3r.models import Prediction
from prob3r.models.completion import CrossViewCompletion
from prob3r.models.layers import Tokens
from prob3r.models.sites import Tap
from prob3r.scenes.views import Pair, Views
from prob3r.training.objectives import ALPHA, Objective, confident_error
from prob3r.training.recipe import Stage


class _Pairs(Objective):
    """An objective of a model of two views, whose module also holds the head for completion."""

    module: CrossViewCompletion

    def __init__(self, module: CrossViewCompletion, stage: Stage, seed: int, tap: Tap):
        super().__init__(module, stage, seed, tap)
        self.model = module.backbone

    @classmethod
    def trains(cls, module: nn.Module) -> bool:
        """Return whether the module has a head for completion beside the model."""
        return isinstance(module, CrossViewCompletion)


class Completion(_Pairs):
    """Cross-view completion, as in CroCo."""

    validated: ClassVar[bool] = False

    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the mean squared error of the hidden pixels."""
        assert isinstance(scenes, Pair)
        generator = torch.Generator().manual_seed(self.seed * 2**26 + number)
        loss: Tensor = self.module(*scenes.images, generator)
        return loss

    def end(self) -> None:
        """Copy the decoder that learned completion into view 2's decoder."""
        self.model.dec_blocks2.load_state_dict(self.model.dec_blocks.state_dict())


class Pointmaps(_Pairs):
    """The regression of both pointmaps, and of the local pointmap if the model predicts one."""

    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the loss of the pointmaps."""
        assert isinstance(scenes, Pair)
        model, (encoded1, encoded2) = self.model, self.encode(scenes)
        states1, states2 = model.decode(encoded1, encoded2, self.tap)
        output = model.read(states1, states2, encoded1.grid, encoded2.grid)
        loss = pointmap_loss(output, scenes)
        return loss if output.local_points is None else loss + local_loss(output, scenes)

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


def local_loss(output: Prediction, pair: Pair, alpha: float = ALPHA) -> Float[Tensor, ""]:
    """Return the loss of view 2's local pointmap, which is in its own camera's frame.

    The unit is that of `pointmap_loss`. If view 2's points are right in both frames, the pose that
    the model moves them by must be the camera's.

    Raises:
        Prob3rError: The model predicts no local pointmaps.
    """
    if output.local_points is None:
        raise Prob3rError("This model predicts no local pointmaps, which the loss needs.")
    unit, true_unit = (
        norm_factor(points, pair.valid)[:, None, None, None]
        for points in (output.points, pair.points)
    )
    return confident_error(
        output.local_points[1] / unit,
        output.confidence[1],
        pair.view2.points / true_unit,
        pair.valid[1],
        alpha,
    )
