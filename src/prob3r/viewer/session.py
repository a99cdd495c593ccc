"""A session: the state of one person's viewer, without a server. All input is checked here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from prob3r.errors import Prob3rError
from prob3r.measures.views import ViewRelations
from prob3r.models.protocol import trunk
from prob3r.runs.edits import Edit
from prob3r.viewer import colours
from prob3r.viewer.ablations import Ablation, python
from prob3r.viewer.attention import MOST_PINS, PatchAttention, Pin
from prob3r.viewer.display import ALL, FINAL_STATE, NOTHING, OF_HEAD, THE_TRUTH, Display
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.run import METRICS, Run, title
from prob3r.viewer.sources import ViewsSource
from prob3r.viewer.timeline import TimelinePosition

MOST_ABLATIONS = 50


@dataclass(frozen=True, eq=False)
class Pane:
    """One reconstruction in the scene.

    Attributes:
        title: The label of the pane.
        run: The run that is shown.
        experiment: The experiment of the run.
        before: The run that displacement is measured from; None for the run's own final state.
    """

    title: str
    run: Run
    experiment: Experiment
    before: Run | None = None


class Session:
    """The state of one viewer: scene, ablations, comparison, pins, position on the timeline.

    A method whose request is not possible raises Prob3rError and changes nothing.

    Args:
        probed: The model with its probes.
        source: The scene.
        others: Models to compare with, by label; each is loaded when it is first chosen.
        experiment: The model on the scene, if it exists already.

    Attributes:
        experiment: The model on the scene.
        run: The run with the present ablations.
        ablations: The parts that are switched off, the latest last.
        display: How the points are shown.
        timeline: The position on the timeline.
        pins: The chosen tokens, the latest last.
        block, head: The head whose attention is shown; None is the mean of the block's heads.
    """

    def __init__(
        self,
        probed: ProbedModel,
        source: ViewsSource,
        others: Mapping[str, Callable[[], ProbedModel]] | None = None,
        experiment: Experiment | None = None,
    ):
        self.probed, self.source = probed, source
        self.others = dict(others or {})
        self.display = Display()
        self.experiment = experiment or Experiment(probed, source.views(probed.model))
        self.against: str | None = None
        self._begin()

    def _begin(self) -> None:
        """Reset the state for the present experiment, at the end of the timeline."""
        self.run = self.experiment.clean
        self.ablations: list[Ablation] = []
        self._edits: list[list[Edit]] = []
        self._other: Pane | None = None
        self._attention: dict[Pin, PatchAttention] = {}
        self._relations: ViewRelations | None = None
        self._toward: int | None = None
        self.pins: list[Pin] = []
        self.block = trunk(self.probed.model).blocks // 2
        self.head: int | None = None
        last = len(self.experiment.steps) - 1
        self.timeline = TimelinePosition(last, float(last), last)

    def open(self, source: ViewsSource) -> None:
        """Open another scene, without ablations and without a comparison.

        Raises:
            Prob3rError: The scene cannot be read.
        """
        self.experiment = Experiment(self.probed, source.views(self.probed.model))
        self.source, self.against = source, None
        self.display = replace(self.display, views=None, moving=ALL)
        if self.display.needs_truth and not self.experiment.has_truth:
            self.display = replace(self.display, colour=colours.PHOTOGRAPH, ghost=NOTHING)
        if self.display.colour in colours.DECIDES:
            self.display = replace(self.display, colour=colours.PHOTOGRAPH, decided=2)
        self._begin()

    def show(self, **changes: Any) -> None:
        """Change how the points are shown.

        Args:
            changes: New values of the attributes of `Display`.

        Raises:
            Prob3rError: A value is not possible, or needs a truth or a camera head that is missing.
        """
        display = replace(self.display, **changes)
        if display.needs_truth and not self.experiment.has_truth:
            raise Prob3rError("The truth of this scene is not known; choose something else.")
        if display.cameras == OF_HEAD and not self.experiment.has_camera_head:
            raise Prob3rError("This model has no camera head; choose something else.")
        for view in (*(display.views or ()), *([display.moving] if display.moving else ())):
            self._check_view(view)
        if display.colour in colours.DECIDES:
            self._check_view(display.decided)
            self.experiment.influence(display.decided, colours.DECIDES[display.colour])
        self.display = display

    def move(self, step: int) -> None:
        """Move the timeline to a step; raise Prob3rError if there is no such step."""
        if not 0 <= step < len(self.experiment.steps):
            raise Prob3rError(f"There is no site {step}; the last site is {self.timeline.last}.")
        self.timeline.send(step)

    def ablate(self, ablation: Ablation) -> None:
        """Add an ablation to those that are active, and run the model again.

        Raises:
            Prob3rError: The ablation is active already, there are too many, or it is not possible.
        """
        if ablation in self.ablations:
            raise Prob3rError(f"{ablation.words} is switched off already.")
        if len(self.ablations) == MOST_ABLATIONS:
            raise Prob3rError(f"There are {MOST_ABLATIONS} ablations already; undo some first.")
        edits = ablation.edits(self.probed.model, self.experiment.views)
        self._rerun([*self.ablations, ablation], [*self._edits, edits])

    def undo(self) -> None:
        """Undo the latest ablation; without an ablation, do nothing."""
        if self.ablations:
            self._rerun(self.ablations[:-1], self._edits[:-1])

    def restore(self) -> None:
        """Undo all ablations."""
        if self.ablations:
            self._rerun([], [])

    def compare(self, name: str | None) -> None:
        """Show another model or other probes for comparison; None ends the comparison.

        Raises:
            Prob3rError: There is no such model in `others`, or it cannot be used on this scene.
        """
        if name is None:
            self.against = self._other = None
            return
        if name not in self.others:
            raise Prob3rError(f"There is nothing called '{name}' to compare with.")
        probed = self.others[name]()
        other = Experiment(probed, self.source.views(probed.model))
        self._other = self._beside(name, other, self.ablations)
        self.against = name

    def pin(self, view: int, patch: int = 0, token: str = "") -> None:
        """Pin a patch or a special token; if there are too many pins, the oldest is removed.

        Raises:
            Prob3rError: There is no such view, patch or token.
        """
        self._check_view(view)
        rows, columns = self.experiment.grids[view - 1]
        if not 0 <= patch < rows * columns:
            raise Prob3rError(f"View {view} has {rows} rows and {columns} columns of patches.")
        if token:
            layout = trunk(self.probed.model).layout(view)
            layout.index(token, rows * columns + len(layout.special))
        pin = Pin(view, patch, token)
        self.pins = [*(p for p in self.pins if p != pin), pin][-MOST_PINS:]

    def unpin(self) -> None:
        """Remove all pins."""
        self.pins = []

    def watch(self, block: int, head: int | None) -> None:
        """Choose the head whose attention is shown; None is the mean of the block's heads.

        Raises:
            Prob3rError: There is no such block or head.
        """
        stack = trunk(self.probed.model)
        if not 0 <= block < stack.blocks or not (head is None or 0 <= head < stack.heads):
            raise Prob3rError(
                f"Blocks go from 0 to {stack.blocks - 1}, heads to {stack.heads - 1}."
            )
        self.block, self.head = block, head

    def attention(self, pin: Pin) -> PatchAttention:
        """Return the attention of a token in the present run."""
        if pin not in self._attention:
            self._attention[pin] = self.experiment.attention(pin, self.edits)
        return self._attention[pin]

    def watched(self, pin: Pin) -> dict[int, Float[np.ndarray, " _m"]]:
        """Return the attention of a token on every other view, by the head that is shown."""
        head = -1 if self.head is None else self.head
        return {
            view: rows[self.block, head]
            for view, rows in self.attention(pin).patches.items()
            if view != pin.view
        }

    @property
    def toward(self) -> int:
        """The view for which all heads of the latest pin are shown; by default the most attended.

        Without a pin it is view 1.
        """
        if not self.pins:
            return 1
        pin = self.pins[-1]
        if self._toward is not None and self._toward != pin.view:
            return self._toward
        shares = {view: row.sum() for view, row in self.watched(pin).items()}
        return max(shares, key=lambda view: float(shares[view]))

    def show_heads(self, view: int | None) -> None:
        """Choose the view for which all heads are shown; None is the most attended one."""
        if view is not None:
            self._check_view(view)
        self._toward = view

    @property
    def relations(self) -> ViewRelations:
        """How the views relate in the present run."""
        if self._relations is None:
            self._relations = self.experiment.relations(self.run, self.edits)
        return self._relations

    @property
    def edits(self) -> list[Edit]:
        """All ablations as edits."""
        return [edit for edits in self._edits for edit in edits]

    @property
    def panes(self) -> list[Pane]:
        """The panes in the scene; `present` is the index of the present state."""
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
        """The index of the pane that shows the present state."""
        return 1 if self.ablations and self._other is None else 0

    @property
    def reference(self) -> str:
        """The reference of the errors, in words."""
        return THE_TRUTH if self.experiment.has_truth else FINAL_STATE

    @property
    def python(self) -> str:
        """A Python program that does the same as this session."""
        model, views = self.probed.model, self.experiment.views.count
        return python(self.ablations, model, views, self.probed.name, self.source.python)

    def numbers(self) -> list[tuple[str, str, list[float]]]:
        """Return the errors of every pane's output: title, unit, and a value for each pane.

        With more than two views, a value is the median over views 2, 3, …. Without the truth,
        errors are against the final state of the clean run, so those of the clean run are 0.
        """
        several = self.experiment.views.count > 2
        return [
            (
                title(metric, "the views" if several else 2),
                unit,
                [_median(pane.run, metric) for pane in self.panes],
            )
            for metric, (_, unit) in METRICS.items()
            if all(metric in curves for curves in self.run.curves.values())
        ]

    def _check_view(self, view: int) -> None:
        count = self.experiment.views.count
        if not 1 <= view <= count:
            raise Prob3rError(f"There is no view {view}; views count from 1 to {count}.")

    def _rerun(self, ablations: list[Ablation], edits: list[list[Edit]]) -> None:
        run = self.experiment.run([edit for one in edits for edit in one])
        other = self._other
        if other is not None and self.against is not None:
            other = self._beside(self.against, other.experiment, ablations)
        self.run, self.ablations, self._edits, self._other = run, ablations, edits, other
        self._attention, self._relations = {}, None

    def _beside(self, name: str, other: Experiment, ablations: list[Ablation]) -> Pane:
        """Return the pane of a compared model, with the same ablations."""
        model, views = other.probed.model, other.views
        edits = [edit for ablation in ablations for edit in ablation.edits(model, views)]
        return Pane(name, other.run(edits), other, other.clean if ablations else None)


def _median(run: Run, metric: str) -> float:
    """Return the median of an error of the output over the views that have it."""
    values = [curves[metric][-1] for curves in run.curves.values() if metric in curves]
    known = [float(value) for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")
