"""A session: what one person looks at, without any server. Every wish is checked here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from prob3r.errors import Prob3rError
from prob3r.measures.attention import Strongest
from prob3r.models.protocol import trunk
from prob3r.runs.edits import Edit
from prob3r.viewer import colours
from prob3r.viewer.ablations import Ablation, python
from prob3r.viewer.attention import MOST_PINS, Pin, weights
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.run import METRICS, Run
from prob3r.viewer.sources import Source
from prob3r.viewer.timeline import TimelinePosition

MOST_ABLATIONS = 50
NOTHING, FINAL_STATE, THE_TRUTH = "nothing", "the final state", "the truth"
GHOSTS = (NOTHING, FINAL_STATE, THE_TRUTH)
MOVING = ("both views", "view 1", "view 2")
COLOURS = (
    colours.PHOTOGRAPH,
    colours.VIEW,
    colours.CONFIDENCE,
    colours.ERROR,
    colours.DISPLACEMENT,
)


@dataclass(frozen=True)
class Display:
    """How the points are shown.

    Attributes:
        colour: One of `COLOURS`.
        size: Of a point, as a share of the space between neighbours at the mean distance.
        hidden: The share of the points that is hidden, the least sure ones, in percent.
        view1, view2: Whether each view is shown.
        moving: One of `MOVING`: which views follow the timeline; the other is in its final state.
        ghost: One of `GHOSTS`: what is shown in grey beside the points.
        cameras: Whether the cameras are shown.
    """

    colour: str = colours.PHOTOGRAPH
    size: float = 1.0
    hidden: int = 5
    view1: bool = True
    view2: bool = True
    moving: str = MOVING[0]
    ghost: str = NOTHING
    cameras: bool = True

    def __post_init__(self) -> None:
        for name, choices in (("colour", COLOURS), ("moving", MOVING), ("ghost", GHOSTS)):
            if getattr(self, name) not in choices:
                raise Prob3rError(f"{name} must be one of {', '.join(choices)}.")
        if not 0.1 <= self.size <= 5 or not 0 <= self.hidden <= 95:
            raise Prob3rError("The size goes from 0.1 to 5, and what is hidden from 0 to 95.")


@dataclass(frozen=True, eq=False)
class Pane:
    """One reconstruction in the scene.

    Attributes:
        title: What it is.
        run: What is shown.
        experiment: Where the run is from.
        before: The run that displacement is measured from; None for the run's own final state.
    """

    title: str
    run: Run
    experiment: Experiment
    before: Run | None = None


class Session:
    """What one person looks at: a pair, ablations, a comparison, pins, a place on the timeline.

    A wish that cannot be granted raises Prob3rError and changes nothing.

    Args:
        probed: The model with its probes.
        source: The pair.
        others: What it can be compared with, by name; each is read when it is first asked for.
        experiment: The model on the pair, if somebody has it already.

    Attributes:
        experiment: The model on the pair.
        run: The run with the present ablations.
        ablations: What is switched off, the latest last.
        display: How the points are shown.
        timeline: The place on the timeline.
        pins: The chosen patches, the latest last.
        block, head: Whose attention is shown; None is the mean of a block's heads.
    """

    def __init__(
        self,
        probed: ProbedModel,
        source: Source,
        others: Mapping[str, Callable[[], ProbedModel]] | None = None,
        experiment: Experiment | None = None,
    ):
        self.probed, self.source = probed, source
        self.others = dict(others or {})
        self.display = Display()
        self.experiment = experiment or Experiment(probed, source.pair(probed.model))
        self.against: str | None = None
        self._begin()

    def _begin(self) -> None:
        """Start over with the present experiment, at the end of the timeline."""
        self.run = self.experiment.clean
        self.ablations: list[Ablation] = []
        self._edits: list[list[Edit]] = []
        self._other: Pane | None = None
        self._attention: dict[tuple[int, int], Strongest] | None = None
        self.pins: list[Pin] = []
        self.block = trunk(self.probed.model).blocks // 2
        self.head: int | None = None
        last = len(self.experiment.steps) - 1
        self.timeline = TimelinePosition(last, float(last), last)

    def open(self, source: Source) -> None:
        """Look at another pair, with nothing switched off and nothing compared.

        Raises:
            Prob3rError: The pair cannot be read.
        """
        self.experiment = Experiment(self.probed, source.pair(self.probed.model))
        self.source, self.against = source, None
        if self._needs_truth(self.display) and not self.experiment.has_truth:
            self.display = replace(self.display, colour=colours.PHOTOGRAPH, ghost=NOTHING)
        self._begin()

    def show(self, **changes: Any) -> None:
        """Change how the points are shown; see `Display`."""
        display = replace(self.display, **changes)
        if self._needs_truth(display) and not self.experiment.has_truth:
            raise Prob3rError("The truth of this pair is not known; choose something else.")
        self.display = display

    def move(self, step: int) -> None:
        """Send the timeline to a step."""
        if not 0 <= step < len(self.experiment.steps):
            raise Prob3rError(f"There is no site {step}; they go to {self.timeline.last}.")
        self.timeline.send(step)

    def ablate(self, ablation: Ablation) -> None:
        """Switch something off, beside what is off already."""
        if ablation in self.ablations:
            raise Prob3rError(f"{ablation.words} is switched off already.")
        if len(self.ablations) == MOST_ABLATIONS:
            raise Prob3rError(f"There are {MOST_ABLATIONS} ablations already; undo some first.")
        edits = ablation.edits(self.probed.model, self.experiment.pair)
        self._rerun([*self.ablations, ablation], [*self._edits, edits])

    def undo(self) -> None:
        """Take the latest ablation back; without any, nothing happens."""
        if self.ablations:
            self._rerun(self.ablations[:-1], self._edits[:-1])

    def restore(self) -> None:
        """Undo all."""
        if self.ablations:
            self._rerun([], [])

    def compare(self, name: str | None) -> None:
        """Show another model or other probes beside this one, or nothing; see `others`."""
        if name is None:
            self.against = self._other = None
            return
        if name not in self.others:
            raise Prob3rError(f"There is nothing called '{name}' to compare with.")
        probed = self.others[name]()
        other = Experiment(probed, self.source.pair(probed.model))
        self._other = self._beside(name, other, self.ablations)
        self.against = name

    def pin(self, view: int, patch: int) -> None:
        """Choose a patch, and let go of the oldest where there are too many."""
        if view not in (1, 2):
            raise Prob3rError("The view must be 1 or 2.")
        rows, columns = self.experiment.grids[view - 1]
        if not 0 <= patch < rows * columns:
            raise Prob3rError(f"View {view} has {rows} rows and {columns} columns of patches.")
        pin = Pin(view, patch)
        self.pins = [*(p for p in self.pins if p != pin), pin][-MOST_PINS:]

    def unpin(self) -> None:
        """Let go of all chosen patches."""
        self.pins = []

    def watch(self, block: int, head: int | None) -> None:
        """Choose the head whose attention is shown; None is the mean of the block's heads."""
        stack = trunk(self.probed.model)
        if not 0 <= block < stack.blocks or not (head is None or 0 <= head < stack.heads):
            raise Prob3rError(
                f"Blocks go from 0 to {stack.blocks - 1}, heads to {stack.heads - 1}."
            )
        self.block, self.head = block, head

    def attention(self, pin: Pin) -> Float[np.ndarray, "blocks k m"]:
        """Return where a patch looks in the present run, the mean of the heads last."""
        if self._attention is None:
            self._attention = self.experiment.attention(self.edits)
        rows, columns = self.experiment.grids[2 - pin.view]
        return weights(self._attention, pin, 3 - pin.view, rows * columns)

    def watched(self, pin: Pin) -> Float[np.ndarray, " m"]:
        """Return where a patch looks by the head that is shown."""
        row: np.ndarray = self.attention(pin)[self.block, -1 if self.head is None else self.head]
        return row

    @property
    def edits(self) -> list[Edit]:
        """All ablations as edits."""
        return [edit for edits in self._edits for edit in edits]

    @property
    def panes(self) -> list[Pane]:
        """What stands in the scene; the present state is `present`."""
        before = self.experiment.clean if self.ablations else None
        title = "after ablation" if self.ablations else self.probed.words
        pane = Pane(title, self.run, self.experiment, before)
        if self._other is not None:
            return [pane, self._other]
        if self.ablations:
            return [Pane("before", self.experiment.clean, self.experiment), pane]
        return [pane]

    @property
    def present(self) -> int:
        """Which of the panes is the present state."""
        return 1 if self.ablations and self._other is None else 0

    @property
    def reference(self) -> str:
        """What errors are measured against, in words."""
        return THE_TRUTH if self.experiment.has_truth else FINAL_STATE

    @property
    def python(self) -> str:
        """A program that does what was done here."""
        return python(self.ablations, self.probed.name, self.source.python)

    def numbers(self) -> list[tuple[str, str, list[float]]]:
        """Return the errors of every pane's output: what it is, its unit, a value for each pane.

        Against the final state, that of the clean run, a clean run has none by construction.
        """
        panes = self.panes
        return [
            (title, unit, [float(pane.run.curves[metric][-1]) for pane in panes])
            for metric, (title, unit) in METRICS.items()
        ]

    @staticmethod
    def _needs_truth(display: Display) -> bool:
        return display.colour == colours.ERROR or display.ghost == THE_TRUTH

    def _rerun(self, ablations: list[Ablation], edits: list[list[Edit]]) -> None:
        run = self.experiment.run([edit for one in edits for edit in one])
        other = self._other
        if other is not None and self.against is not None:
            other = self._beside(self.against, other.experiment, ablations)
        self.run, self.ablations, self._edits, self._other = run, ablations, edits, other
        self._attention = None

    def _beside(self, name: str, other: Experiment, ablations: list[Ablation]) -> Pane:
        """Return a comparison with the same ablations."""
        edits = [
            e for ablation in ablations for e in ablation.edits(other.probed.model, other.pair)
        ]
        return Pane(name, other.run(edits), other, other.clean if ablations else None)
