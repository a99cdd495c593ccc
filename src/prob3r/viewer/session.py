"""A session: what one person looks at, without any server. Every wish is checked here."""

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
from prob3r.viewer.sources import Source
from prob3r.viewer.timeline import TimelinePosition

MOST_ABLATIONS = 50


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
    """What one person looks at: a scene, ablations, a comparison, pins, a place on the timeline.

    A wish that cannot be granted raises Prob3rError and changes nothing.

    Args:
        probed: The model with its probes.
        source: The scene.
        others: What it can be compared with, by name; each is read when it is first asked for.
        experiment: The model on the scene, if somebody has it already.

    Attributes:
        experiment: The model on the scene.
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
        self.experiment = experiment or Experiment(probed, source.views(probed.model))
        self.against: str | None = None
        self._begin()

    def _begin(self) -> None:
        """Start over with the present experiment, at the end of the timeline."""
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

    def open(self, source: Source) -> None:
        """Look at another scene, with nothing switched off and nothing compared.

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
        """Change how the points are shown; see `Display`."""
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
        edits = ablation.edits(self.probed.model, self.experiment.views)
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
        other = Experiment(probed, self.source.views(probed.model))
        self._other = self._beside(name, other, self.ablations)
        self.against = name

    def pin(self, view: int, patch: int = 0, token: str = "") -> None:
        """Choose a patch or a special token, and let go of the oldest where there are too many."""
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

    def attention(self, pin: Pin) -> PatchAttention:
        """Return what a token attends to in the present run."""
        if pin not in self._attention:
            self._attention[pin] = self.experiment.attention(pin, self.edits)
        return self._attention[pin]

    def watched(self, pin: Pin) -> dict[int, Float[np.ndarray, " _m"]]:
        """Return what a token attends to by the head that is shown, for every other view."""
        head = -1 if self.head is None else self.head
        return {
            view: rows[self.block, head]
            for view, rows in self.attention(pin).patches.items()
            if view != pin.view
        }

    @property
    def toward(self) -> int:
        """The view for which all heads of the latest pin are shown; the most attended by default.

        Without a pin it means nothing, and is view 1.
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
        model, views = self.probed.model, self.experiment.views.count
        return python(self.ablations, model, views, self.probed.name, self.source.python)

    def numbers(self) -> list[tuple[str, str, list[float]]]:
        """Return the errors of every pane's output: what it is, its unit, a value for each pane.

        Of more than two views, a value is the median over views 2, 3, …. Against the final state,
        that of the clean run, a clean run has none by construction.
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
        """Return a comparison with the same ablations."""
        model, views = other.probed.model, other.views
        edits = [edit for ablation in ablations for edit in ablation.edits(model, views)]
        return Pane(name, other.run(edits), other, other.clean if ablations else None)


def _median(run: Run, metric: str) -> float:
    """Return the median of an error of the output over the views that have it."""
    values = [curves[metric][-1] for curves in run.curves.values() if metric in curves]
    known = [float(value) for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")
