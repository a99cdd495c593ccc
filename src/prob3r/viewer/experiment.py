"""A model with its probes on one pair: the clean run, and reruns with parts switched off."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.measures.attention import AttentionRecords, Strongest
from prob3r.measures.reconstruction import Cameras
from prob3r.measures.reference import TRUTH, Points, Reference
from prob3r.measures.steps import OUTPUT, Step, trunk_steps
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.probes import SiteReader, check_backbone
from prob3r.reliability.check import check_output
from prob3r.report.check import check_sentences
from prob3r.report.sentences import Sentence
from prob3r.runs.edits import Edit
from prob3r.runs.replay import Replay
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import Pair
from prob3r.viewer.run import Run, Steps, measure, thinned

SHOWN_PIXELS = 50_000
"""Points of one view that are drawn at most; of more, every second or third row and column."""


@dataclass(frozen=True, eq=False)
class ProbedModel:
    """A model with the probes that read it.

    Attributes:
        name: What to call the model: a shipped name, or a path.
        model: The model.
        bank: Probes of its decoders, or a lens.
        probes: What to call the probes: a kind, or a path.

    Raises:
        Prob3rError: The probes were trained on another model.
    """

    name: str
    model: Model
    bank: SiteReader
    probes: str = "mlp"

    def __post_init__(self) -> None:
        check_backbone(self.bank, self.model)
        self.bank.to(next(self.model.parameters()).device)

    @property
    def words(self) -> str:
        """What to call it, such as `mini, MLP probes`."""
        return f"{self.name}, {'MLP' if self.bank.kind == 'mlp' else self.bank.kind} probes"


class Experiment:
    """A model with its probes on a pair.

    It is shared by all who look at it, and reruns one at a time.

    Args:
        probed: A model with its probes.
        pair: A batch of one, framed for that model.

    Attributes:
        steps: The decoders' sites in their order, then the output.
        reference: What every run is measured against: the truth, or the clean run's final state.
        clean: The run without edits.
        focal: Of both views, in pixels along x and y.
        grids: Rows and columns of both views' patches.
        stride: Every how many pixels a point is drawn.
        images: Both photographs as the model sees them, at every pixel.

    Raises:
        Prob3rError: The pair is a batch of several, or the probes read no decoder site.
    """

    def __init__(self, probed: ProbedModel, pair: Pair):
        if len(pair) != 1:
            raise Prob3rError(f"The pair is a batch of {len(pair)}; the viewer shows one pair.")
        self.probed = probed
        self.pair = pair.to(next(probed.model.parameters()).device)
        sites = trunk_steps(probed.bank, trunk(probed.model), pair.count)
        self.steps = [*sites, Step(None, OUTPUT)]
        config = probed.model.config
        views = (pair.view1, pair.view2)
        first, second = (patch_grid(*v.size, config.patch) for v in views)
        self.grids = first, second
        self.images = _bytes(pair.view1.image), _bytes(pair.view2.image)
        self.stride = ceil((max(v.size[0] * v.size[1] for v in views) / SHOWN_PIXELS) ** 0.5)
        self._lock = threading.Lock()
        self._checked: dict[str, list[Sentence]] = {}
        residuals = [step.site(view) for step in sites for view in (1, 2)]
        self._replay = Replay(probed.model, self.pair, residuals)
        output = self._replay.clean.output
        assert output is not None
        cameras = Cameras.of(self.pair, output.points, output.confidence[0])
        self._output, self._cameras = output.points, cameras
        self.focal = [torch.diagonal(m)[:2].tolist() for m in cameras.intrinsics]
        self.reference = Reference.of(self.pair, output.points, cameras.poses)
        self._thin, self._pick = thinned(self.reference)
        self.clean = self._result(self._replay.clean, None)

    def check(self, matcher: str) -> list[Sentence]:
        """Return what an independent check says of the clean run's output; see `reliability.check`.

        Raises:
            Prob3rError: The matcher is not installed.
        """
        if matcher not in self._checked:
            with self._lock:
                found = check_output(self.pair, self._output, self._cameras, matcher)
            self._checked[matcher] = check_sentences(found, calibrated=False)
        return self._checked[matcher]

    @property
    def has_truth(self) -> bool:
        """Whether runs are measured against the truth."""
        return self.reference.kind == TRUTH

    @property
    def truth(self) -> tuple[Float[np.ndarray, "h1 w1 3"], Float[np.ndarray, "h2 w2 3"]] | None:
        """Both views' true points where they are drawn, NaN where unknown; None without truth."""
        if not self.has_truth:
            return None
        first, second = (
            self._shown(points.where(valid[..., None], torch.nan))
            for points, valid in zip(self.reference.points, self.reference.valid, strict=True)
        )
        return first, second

    def run(self, edits: Sequence[Edit]) -> Run:
        """Return the run with these edits; without any, the clean one.

        Raises:
            Prob3rError: An edit does not fit the model.
        """
        if not edits:
            return self.clean
        with self._lock:
            return self._result(self._replay.run(edits), self.clean)

    def attention(self, edits: Sequence[Edit] = ()) -> dict[tuple[int, int], Strongest]:
        """Return what each view's patches attend to in each other view, the mean head last."""
        records = AttentionRecords(self.probed.model, self.pair)
        with self._lock:
            run = trace(
                self.probed.model,
                self.pair,
                records.sites(["strongest"]),
                edits,
                output=False,
                reductions=records.reductions,
            )
        return records.strongest(run)

    @torch.no_grad()
    def _result(self, run: Trace, before: Run | None) -> Run:
        """Decode and measure a trace, from the first step on that the edits changed."""
        assert run.output is not None
        start = 0 if before is None else self._first_changed(run)
        raw = [self._decoded(run, step) for step in self.steps[start:-1]]
        units = [self.reference.normalise(both) for both in [*raw, run.output.points]]
        pick, (firsts, seconds) = self._pick, zip(*units, strict=True)
        errors, poses = measure(
            Steps(*(torch.cat([p[:, pick, pick] for p in v]) for v in (firsts, seconds))),
            self._thin,
        )
        shown = [np.stack([self._shown(p) for p in v]) for v in (firsts, seconds)]
        curves = {name: error.cpu().numpy() for name, error in errors.items()}
        matrices = poses.cpu().numpy()
        if before is not None:
            shown = [
                np.concatenate([b[:start], s]) for b, s in zip(before.points, shown, strict=True)
            ]
            curves = {k: np.concatenate([before.curves[k][:start], c]) for k, c in curves.items()}
            matrices = np.concatenate([before.poses[:start], matrices])
        confidence1, confidence2 = (self._shown(c) for c in run.output.confidence)
        return Run(
            steps=self.steps,
            points=(shown[0], shown[1]),
            confidence=(confidence1, confidence2),
            poses=matrices,
            curves=curves,
        )

    def _decoded(self, run: Trace, step: Step) -> Points:
        first, second = (self.probed.bank.decode(run[step.site(v)]).points for v in (1, 2))
        return first, second

    def _first_changed(self, run: Trace) -> int:
        """Return the first step at which a trace differs from the clean one."""
        clean = self._replay.clean
        for i, step in enumerate(self.steps[:-1]):
            sites = (step.site(1), step.site(2))
            if not all(torch.equal(torch.Tensor(run[s]), torch.Tensor(clean[s])) for s in sites):
                return i
        return len(self.steps) - 1

    def _shown(self, values: Tensor) -> np.ndarray:
        """Return a map of one view at the pixels that are drawn."""
        return values[0, :: self.stride, :: self.stride].float().cpu().numpy()


def _bytes(image: Float[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as bytes."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()
