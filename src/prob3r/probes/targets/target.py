"""What every target of a probe has in common: channels, what to say, errors and decoding.

A target says *what* a probe reads: a pointmap, depth, a pose. *Whose* is another question: the
truth's, or the model's own final one.
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
"""What one answer is about: each pixel of a patch, a patch, or a view together with view 1."""

PIXEL: Level = "pixel"
PATCH: Level = "patch"
PAIR: Level = "pair"


class Columns(NamedTuple):
    """Which outputs of a regression belong to whom.

    Attributes:
        whose: Whose targets they are, in their order.
        pixels: Pixels in a patch; 1 for a target of patches or pairs.
        channels: Numbers of one answer.
        shared: Numbers of one answer that are the same whoever it is of.
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
        """Return the outputs that are somebody's answer."""
        size = self.channels * self.pixels
        start = size * self.whose.index(whose)
        return slice(start, start + size)

    @property
    def common(self) -> slice:
        """The outputs that all share."""
        return slice(self.width - self.shared * self.pixels, self.width)


class Goals(NamedTuple):
    """What probes are to say of the patches of one view of a batch, or of its pairs.

    Attributes:
        raw: The outputs of each patch or pair, as `Columns` orders them, channel by channel.
        known: Of which of them everything is known.
        units: By whose they are, what errors are divided by or need to know of the scene.
        beside: What else errors need.
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
        """Return goals that are the truth's alone. Numbers that are not known become zero."""
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
    """What a probe is to say.

    A target knows no model and no probe. `goals` says what probes are fitted to, `errors` how far
    their answers are from it, and `decode` turns an answer into what it stands for.

    Attributes:
        name: What commands and files call it.
        title: What a sentence calls it.
        level: What one answer is about.
        channels: Numbers of one answer.
        shared: Further numbers of one answer, which are the same for the truth and the own output.
        measures: What `errors` returns, in order. The first one is an error, which ridges are
            chosen by.
        own: Whether probes can be fitted to the model's own final output.
        first_view: The first view that has such a target: 2 for what relates a view to view 1.
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
        """Return how many answers a patch of so many pixels a side gives."""
        return patch**2 if self.level == PIXEL else 1

    def columns(self, whose: tuple[Whose, ...], patch: int) -> Columns:
        """Return the outputs of a regression on it."""
        return Columns(whose, self.pixels(patch), self.channels, self.shared)

    def goals(
        self, views: Views, output: Prediction | None, patch: int, whose: tuple[Whose, ...]
    ) -> list[Goals | None]:
        """Return what probes are to say of every view of a batch; None where a view has none.

        Args:
            views: The batch.
            output: What the model says of it; needed for the own output and for confidences.
            patch: Side of a patch, in pixels.
            whose: Whose targets.

        Raises:
            Prob3rError: The scenes or the output lack what the target follows from.
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
        """Return in words what scenes lack to have such a target; empty if they have it."""
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
        """Return what `measures` names of each patch or pair; NaN where it cannot be measured.

        Args:
            predicted: The outputs of a probe for it.
            true: The outputs it should give.
            units: Of the goals.
            beside: Of the goals.
        """

    def loss(
        self, predicted: Float[Tensor, "n o"], goals: Goals, whose: Whose = TRUTH
    ) -> Float[Tensor, ""]:
        """Return what fitting makes small. The squared error is made so in closed form."""
        return (predicted - goals.raw[:, : predicted.shape[1]]).square().mean()

    @abstractmethod
    def decode(self, raw: Float[Tensor, "*b c"]) -> Tensor:
        """Return what the numbers of an answer stand for."""


def partner(view: int) -> int:
    """Return the view that a view's matches are in: view 1, and for view 1 itself view 2."""
    return 2 if view == 1 else 1
