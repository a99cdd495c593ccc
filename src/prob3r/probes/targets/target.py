"""The base class of all targets of probes: channels, goals, errors and decoding.

A target is *what* a probe predicts: a pointmap, depth, a pose. It does not decide *whose*: the
truth's, or that of the model's own final output.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Prediction
from prob3r.scenes.views import Views

Whose = Literal["truth", "own"]

TRUTH: Whose = "truth"
OWN: Whose = "own"
WHOSE: tuple[Whose, ...] = (TRUTH, OWN)

WHOSE_WORDS = {TRUTH: "the truth", OWN: "the model's own final output"}

Level = Literal["pixel", "patch", "pair"]
"""What one prediction is about: each pixel of a patch, a patch, or a view together with view 1."""

PIXEL: Level = "pixel"
PATCH: Level = "patch"
PAIR: Level = "pair"


class Columns(NamedTuple):
    """Which outputs of a regression predict the truth, and which the model's own output.

    Attributes:
        whose: Whose targets the outputs predict, in the order of the outputs.
        pixels: The number of pixels in a patch; 1 for a target of patches or pairs.
        channels: The number of values of one prediction.
        shared: The number of further values, which are the same for the truth and the own output.
    """

    whose: tuple[Whose, ...]
    pixels: int
    channels: int = 3
    shared: int = 1

    @property
    def width(self) -> int:
        """The number of outputs."""
        return (self.channels * len(self.whose) + self.shared) * self.pixels

    def of(self, whose: Whose) -> slice:
        """Return the outputs that predict the truth, or those that predict the own output."""
        size = self.channels * self.pixels
        start = size * self.whose.index(whose)
        return slice(start, start + size)

    @property
    def common(self) -> slice:
        """The outputs that are the same for the truth and the own output."""
        return slice(self.width - self.shared * self.pixels, self.width)


class Goals(NamedTuple):
    """What probes should predict for the patches of one view of a batch, or for its pairs.

    Attributes:
        raw: The outputs of each patch or pair, in the order of `Columns`, channel by channel.
        known: Whether all values of a patch or pair are known.
        units: By `whose`, a number of the scene that `errors` needs, such as the unit that errors
            are divided by.
        beside: Further data that `errors` needs.
    """

    raw: Float[Tensor, "n o"]
    known: Bool[Tensor, " n"]
    units: dict[Whose, Float[Tensor, " n"]]
    beside: Float[Tensor, "n ..."] | None = None

    @classmethod
    def of_truth(
        cls,
        raw: Float[Tensor, "n o"],
        known: Bool[Tensor, " n"],
        units: Float[Tensor, " n"] | None = None,
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> "Goals":
        """Return goals of the truth alone. Values that are not known become zero."""
        units = torch.ones_like(raw[:, 0]) if units is None else units
        return cls(raw.nan_to_num(0, 0, 0), known, {TRUTH: units}, beside)

    def rows(self, chosen: Bool[Tensor, " n"]) -> "Goals":
        """Return the goals of some patches or pairs."""
        units = {whose: unit[chosen] for whose, unit in self.units.items()}
        beside = None if self.beside is None else self.beside[chosen]
        return Goals(self.raw[chosen], self.known[chosen], units, beside)

    @classmethod
    def join(cls, parts: Sequence["Goals"]) -> "Goals":
        """Return the goals of several batches as one."""
        units = {whose: torch.cat([p.units[whose] for p in parts]) for whose in parts[0].units}
        beside = [p.beside for p in parts if p.beside is not None]
        return cls(
            torch.cat([p.raw for p in parts]),
            torch.cat([p.known for p in parts]),
            units,
            torch.cat(beside) if beside else None,
        )


class Target(ABC):
    """What a probe should predict.

    A target knows no model and no probe. `goals` returns what probes are fitted to. `errors`
    returns how far predictions are from it. `decode` turns the outputs of a probe into the target.

    Attributes:
        name: The name in commands and files.
        title: The name in sentences.
        level: What one prediction is about.
        channels: The number of values of one prediction.
        shared: The number of further values, which are the same for the truth and the own output.
        measures: The names of what `errors` returns, in order. The first is an error, by which
            ridges are chosen.
        own: Whether probes can be fitted to the model's own final output.
        first_view: The first view that has this target: 2 if it relates a view to view 1.
        refined: Whether a fit in closed form is refined by `loss`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    level: ClassVar[Level]
    channels: ClassVar[int]
    shared: ClassVar[int] = 0
    measures: ClassVar[tuple[str, ...]]
    own: ClassVar[bool] = False
    first_view: ClassVar[int] = 1
    refined: ClassVar[bool] = False

    def pixels(self, patch: int) -> int:
        """Return the number of predictions for a patch, given its side in pixels."""
        return patch**2 if self.level == PIXEL else 1

    def columns(self, whose: tuple[Whose, ...], patch: int) -> Columns:
        """Return the outputs of a regression on this target."""
        return Columns(whose, self.pixels(patch), self.channels, self.shared)

    def goals(
        self, views: Views, output: Prediction | None, patch: int, whose: tuple[Whose, ...]
    ) -> list[Goals | None]:
        """Return the goals of every view of a batch; None for a view that does not have the target.

        Args:
            views: The batch.
            output: The model's output for the batch, which gives the own output and confidences.
            patch: Side of a patch, in pixels.
            whose: Whose targets to return.

        Raises:
            Prob3rError: The scenes or the output lack what the target is computed from.
        """
        if whose != (TRUTH,):
            raise Prob3rError(
                f"Probes of the {self.name} are fitted to the truth alone; give '{TRUTH}'."
            )
        if lacking := self.lacks(views):
            raise Prob3rError(f"The {self.name} of these scenes is not known: {lacking}.")
        numbers = range(1, views.count + 1)
        return [self.truth(views, v, patch) if v >= self.first_view else None for v in numbers]

    def lacks(self, views: Views) -> str:
        """Return in words what scenes lack for this target; empty if they lack nothing."""
        return "" if views.has_truth else "they need depth, intrinsics and poses"

    @abstractmethod
    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view of a batch that lacks nothing.

        Args:
            views: The batch.
            view: The view's number, from 1.
            patch: Side of a patch, in pixels.
        """

    @abstractmethod
    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return each of `measures` for each patch or pair; NaN if it cannot be measured.

        Args:
            predicted: The outputs of a probe.
            true: The goals, as `Goals.raw`.
            units: The units of the goals.
            beside: The further data of the goals.
        """

    def loss(
        self, predicted: Float[Tensor, "n o"], goals: Goals, whose: Whose = TRUTH
    ) -> Float[Tensor, ""]:
        """Return what fitting minimises. The squared error is minimised in closed form."""
        return (predicted - goals.raw[:, : predicted.shape[1]]).square().mean()

    @abstractmethod
    def decode(self, raw: Float[Tensor, "*b c"]) -> Tensor:
        """Return the target that the outputs of a probe encode."""


def partner(view: int) -> int:
    """Return the view that a view is matched with: view 1, or view 2 for view 1 itself."""
    return 2 if view == 1 else 1
