"""The base class of objectives, and the losses that several objectives share."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from prob3r.models.sites import Tap
from prob3r.scenes.views import Views
from prob3r.training.recipe import Stage

ALPHA = 0.2
"""Weight of the logarithm of the confidence in the regression losses, as in DUSt3R and VGGT."""


class Objective(ABC):
    """What one stage trains a model to do, as a loss.

    Args:
        module: The model, or a module of the model and of what is learned beside it.
        stage: The stage.
        seed: Seed of the random numbers of the objective.
        tap: Called at every site.
    """

    validated: ClassVar[bool] = True
    """Whether validation is useful while this objective is trained."""

    many_views: ClassVar[bool] = False
    """Whether it takes scenes of any number of views; otherwise it takes only pairs."""

    def __init__(self, module: nn.Module, stage: Stage, seed: int, tap: Tap):
        self.module, self.stage, self.seed, self.tap = module, stage, seed, tap

    @classmethod
    @abstractmethod
    def trains(cls, module: nn.Module) -> bool:
        """Return whether a module can be trained with this objective."""

    @abstractmethod
    def loss(self, scenes: Views, number: int) -> Float[Tensor, ""]:
        """Return the loss of a batch, the `number`-th of the stage."""

    def end(self) -> None:  # noqa: B027 - most objectives have nothing to do here
        """Finish the stage."""


def confident_error(
    predicted: Float[Tensor, "*b h w 3"],
    confidence: Float[Tensor, "*b h w"],
    true: Float[Tensor, "b h w 3"],
    valid: Bool[Tensor, "b h w"],
    alpha: float = ALPHA,
) -> Float[Tensor, ""]:
    """Return the mean over valid pixels of `confidence * error - alpha * log(confidence)`."""
    return mean_over(weigh((predicted - true).norm(dim=-1), confidence, alpha), valid)


def weigh(
    error: Float[Tensor, "*b"], confidence: Float[Tensor, "*b"], alpha: float = ALPHA
) -> Float[Tensor, "*b"]:
    """Return `confidence * error - alpha * log(confidence)`, DUSt3R's loss of each pixel."""
    return confidence * error - alpha * confidence.log()


def mean_over(values: Float[Tensor, "*b h w"], valid: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the mean over valid pixels; 0 where none is valid."""
    return (values * valid).sum() / valid.sum().clamp(min=1)
