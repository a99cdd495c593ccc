"""How the viewer reads pointmaps from a run: by probes, by the model's heads, or at the output."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from prob3r.measures.reference import Points
from prob3r.measures.steps import Step, trunk_steps
from prob3r.models import Model, Prediction
from prob3r.models.protocol import ReadsBlocks, trunk
from prob3r.probes import SiteReader, at_blocks, what_is_read
from prob3r.runs.edits import Edit, Editor, Setting
from prob3r.runs.replay import Replay
from prob3r.runs.trace import Trace
from prob3r.scenes import Views


class RunPointmaps(NamedTuple):
    """The pointmaps read from one run.

    Attributes:
        start: The first step that differs from the clean run; 0 for the clean run itself.
        points: Pointmaps of all views at every step from `start` on, without the output.
        output: The model's prediction.
    """

    start: int
    points: list[Points]
    output: Prediction


@runtime_checkable
class RunReader(Protocol):
    """Read pointmaps from the runs of one model on one scene.

    Attributes:
        steps: The sites that are read; the output comes after them.
        words: How they are read, in one sentence.
    """

    steps: list[Step]
    words: str

    def read(self, edits: Sequence[Edit] = ()) -> RunPointmaps:
        """Return what is read off a run with edits."""


def reader_of(model: Model, views: Views, bank: SiteReader | None) -> RunReader:
    """Return a reader by probes; without probes, one by the model's heads, or of the output."""
    if bank is not None:
        return ProbeReader(model, views, bank)
    return (
        HeadReader(model, views) if isinstance(model, ReadsBlocks) else OutputReader(model, views)
    )


class ProbeReader:
    """Read every step by the probe of its site. A rerun starts at the first changed sublayer."""

    words = "Probes read the points from every site, patch by patch."

    def __init__(self, model: Model, views: Views, bank: SiteReader):
        self.bank = bank
        self.steps = trunk_steps(bank, trunk(model), views.count)
        self.views = range(1, views.count + 1)
        residuals = [step.site(view) for step in self.steps for view in self.views]
        self._replay = Replay(model, views, residuals)

    def read(self, edits: Sequence[Edit] = ()) -> RunPointmaps:
        """Return what is read off a run with edits."""
        run = self._replay.run(edits) if edits else self._replay.clean
        start = self._first_changed(run) if edits else 0
        assert run.output is not None
        points = [
            tuple(self.bank.decode(run[step.site(view)]).points for view in self.views)
            for step in self.steps[start:]
        ]
        return RunPointmaps(start, points, run.output)

    def _first_changed(self, run: Trace) -> int:
        """Return the first step at which a trace differs from the clean one."""
        clean = self._replay.clean
        for i, step in enumerate(self.steps):
            sites = [step.site(view) for view in self.views]
            if not all(torch.equal(torch.Tensor(run[s]), torch.Tensor(clean[s])) for s in sites):
                return i
        return len(self.steps)


class HeadReader:
    """Read the end of every block by the model's own heads, for a model without probes."""

    def __init__(self, model: Model, views: Views):
        self.model, self.views = model, views
        stack = trunk(model)
        last = [sublayers[-1] for sublayers in stack.sublayers]
        # After the last block the heads give the output itself.
        self.steps = [Step(block, last[block], stack.name) for block in range(stack.blocks - 1)]
        self.words = (
            f"There are no probes: the model's own heads read every block. {what_is_read(model)}"
        )

    def read(self, edits: Sequence[Edit] = ()) -> RunPointmaps:
        """Return what is read off a run with edits."""
        found = [said for _, said in at_blocks(self.model, self.views, edits=edits)]
        return RunPointmaps(0, [prediction.points for prediction in found[:-1]], found[-1])


class OutputReader:
    """Read only the output, for a model without probes whose heads cannot read earlier sites."""

    words = "There are no probes, and no head can read earlier sites: only the output is shown."

    def __init__(self, model: Model, views: Views):
        self.model, self.views = model, views
        self.steps: list[Step] = []

    @torch.no_grad()
    def read(self, edits: Sequence[Edit] = ()) -> RunPointmaps:
        """Return what is read off a run with edits."""
        editor = Editor(edits, Setting.of(self.model, self.views))
        return RunPointmaps(0, [], self.model(*self.views.images, tap=editor))
