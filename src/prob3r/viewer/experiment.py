"""A model on one scene: the clean run, and reruns with parts switched off."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prob3r.cost.fit import check_fits
from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid, rotation_error
from prob3r.measures.attention import AttentionRecords
from prob3r.measures.camera_path import camera_path
from prob3r.measures.influence import Influence, influence
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.measures.reference import TRUTH, Reference
from prob3r.measures.steps import OUTPUT, Step
from prob3r.measures.views import ViewRelations
from prob3r.models import Model, Prediction
from prob3r.models.protocol import ReadsBlocks, needs_pointmaps, trunk
from prob3r.probes import SiteReader, check_backbone
from prob3r.reliability.check import check_output
from prob3r.reliability.strangers import StrangerCalibration
from prob3r.report.check import check_sentences
from prob3r.report.explain import check_count
from prob3r.report.sentences import Sentence
from prob3r.runs.edits import Edit
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from prob3r.viewer.attention import PatchAttention, Pin, attention_of
from prob3r.viewer.readings import RunPointmaps, reader_of
from prob3r.viewer.run import HEAD_ROTATION, PairSteps, Run, measure, thinned

SHOWN_PIXELS = 50_000
"""Most points that are drawn of one view; with more, only every second or third row and column."""
ALL_PIXELS = 400_000
"""Most points that are drawn of all views together."""
MOST_VIEWS = 20


@dataclass(frozen=True, eq=False)
class ProbedModel:
    """A model with the probes that read it.

    Attributes:
        name: Name of the model: a shipped name, or a path.
        model: The model.
        bank: Probes of the model's trunk, or a lens; None without probes.
        probes: Name of the probes: a kind, or a path.
        strangers: A calibration of the probability that a view belongs to another scene.

    Raises:
        Prob3rError: The probes or the calibration are of another model.
    """

    name: str
    model: Model
    bank: SiteReader | None
    probes: str = "mlp"
    strangers: StrangerCalibration | None = None

    def __post_init__(self) -> None:
        if self.bank is not None:
            check_backbone(self.bank, self.model)
            self.bank.to(next(self.model.parameters()).device)
        if self.strangers is not None:
            self.strangers.check(self.model)

    @property
    def words(self) -> str:
        """The label of the model and its probes, such as `mini, MLP probes`."""
        if self.bank is None:
            return f"{self.name}, no probes"
        return f"{self.name}, {'MLP' if self.bank.kind == 'mlp' else self.bank.kind} probes"


class Experiment:
    """A model with its probes on one scene.

    All sessions share it; it runs the model for one of them at a time.

    Args:
        probed: A model with its probes.
        views: One scene, framed for that model.

    Attributes:
        steps: The sites of the trunk in their order, then the output.
        reading: How the points are read from the sites, in one sentence.
        reference: The reference of all errors: the truth, or the final state of the clean run.
        clean: The run without edits.
        focal: Focal lengths of all views, in pixels along x and y, used for drawing.
        grids: Rows and columns of patches of all views.
        stride: A point is drawn for every `stride`-th pixel of every `stride`-th row.
        images: All photographs as the model sees them, at full resolution.

    Raises:
        Prob3rError: There are several scenes, or more views than the model takes, the viewer shows
            or the memory holds, or the probes read no site of the trunk.
    """

    def __init__(self, probed: ProbedModel, views: Views):
        if len(views) != 1:
            raise Prob3rError(f"There is a batch of {len(views)} scenes; the viewer shows one.")
        check_views(probed.model, views.count)
        if views.count > 2:
            kept = [str(site) for site in trunk(probed.model).sites(views.count)]
            check_fits(probed.model, views.count, views.views[0].size, kept)
        self.probed = probed
        self.views = views.to(next(probed.model.parameters()).device)
        self._reader = reader_of(probed.model, self.views, probed.bank)
        self.reading = self._reader.words
        self.steps = [*self._reader.steps, Step(None, OUTPUT)]
        config, sizes = probed.model.config, [view.size for view in views.views]
        self.grids = tuple(patch_grid(*size, config.patch) for size in sizes)
        self.images = tuple(_bytes(view.image) for view in views.views)
        most = min(SHOWN_PIXELS, ALL_PIXELS // views.count)
        self.stride = ceil((max(height * width for height, width in sizes) / most) ** 0.5)
        self._lock = threading.Lock()
        self._checked: dict[str, list[Sentence]] = {}
        self._influences: dict[tuple[int, str], Influence] = {}
        clean = self._reader.read()
        self._output = clean.output.points
        self._cameras = EstimatedCameras.of(
            self.views, clean.output.points, clean.output.confidence[0]
        )
        self.focal = [
            _drawable(torch.diagonal(matrix)[:2].tolist(), width)
            for matrix, (_, width) in zip(self._cameras.intrinsics, sizes, strict=True)
        ]
        self.reference = Reference.of(self.views, clean.output.points, self._cameras.poses)
        self._thin, self._pick = thinned(self.reference)
        self.clean = self._result(clean, None, ())

    def check(self, matcher: str) -> list[Sentence]:
        """Return sentences on an independent check of the clean run; see `reliability.check`.

        Raises:
            Prob3rError: The matcher is not installed.
        """
        if matcher not in self._checked:
            with self._lock:
                found = check_output(self.views, self._output, self._cameras, matcher)
            self._checked[matcher] = check_sentences(found, calibrated=False)
        return self._checked[matcher]

    def influence(self, camera: int, of: str) -> tuple[Influence, list[Float[np.ndarray, "_h _w"]]]:
        """Return which patches decide a camera in the clean run, and the effect at drawn pixels.

        Args:
            camera: The view of the camera.
            of: `rotation` or `translation`; see `measures.influence.influence`.

        Raises:
            Prob3rError: The effect on this camera cannot be measured.
        """
        if (camera, of) not in self._influences:
            with self._lock:
                found = influence(self.probed.model, self.views, camera, of)
            self._influences[camera, of] = found
        found, side = self._influences[camera, of], self.probed.model.config.patch
        maps = []
        for effects, grid in zip(found.maps, self.grids, strict=True):
            pixels = effects.reshape(grid).repeat_interleave(side, 0).repeat_interleave(side, 1)
            maps.append(self._shown(pixels[None])[0])
        return found, maps

    @property
    def has_truth(self) -> bool:
        """Whether runs are measured against the truth."""
        return self.reference.kind == TRUTH

    @property
    def has_camera_head(self) -> bool:
        """Whether the model has a camera head that can be read at every block."""
        return self.clean.head_poses is not None

    @property
    def truth(self) -> tuple[Float[np.ndarray, "_h _w 3"], ...] | None:
        """All views' true points where they are drawn, NaN where unknown; None without truth."""
        if not self.has_truth:
            return None
        return tuple(
            self._shown(points.where(valid[..., None], torch.nan))[0]
            for points, valid in zip(self.reference.points, self.reference.valid, strict=True)
        )

    def run(self, edits: Sequence[Edit]) -> Run:
        """Return the run with these edits; without any, the clean one.

        Raises:
            Prob3rError: An edit does not fit the model.
        """
        if not edits:
            return self.clean
        with self._lock:
            return self._result(self._reader.read(edits), self.clean, edits)

    def attention(self, pin: Pin, edits: Sequence[Edit] = ()) -> PatchAttention:
        """Return what a patch or a special token attends to, in the run with these edits."""
        with self._lock:
            return attention_of(self.probed.model, self.views, pin, edits)

    def relations(self, run: Run, edits: Sequence[Edit] = ()) -> ViewRelations:
        """Return how the views relate in a run with these edits."""
        records = AttentionRecords(self.probed.model, self.views)
        with self._lock:
            found = trace(
                self.probed.model,
                self.views,
                records.sites(["by_view"]),
                edits,
                output=False,
                reductions=records.reductions,
            )
        poses = torch.from_numpy(run.poses[-1:]).to(run.final[0])
        cameras = EstimatedCameras(
            self._cameras.intrinsics, poses, (None, *[1.0] * (self.views.count - 1))
        )
        patch = self.probed.model.config.patch
        return ViewRelations.of_run(records, found, run.final, cameras, patch)

    @torch.no_grad()
    def _result(self, read: RunPointmaps, before: Run | None, edits: Sequence[Edit]) -> Run:
        """Measure what was read, from the first step on that the edits changed."""
        start, output = read.start, read.output
        every = [self.reference.normalise(p) for p in [*read.points, output.points]]
        of_view = [torch.cat(points) for points in zip(*every, strict=True)]
        shown = tuple(self._shown(points) for points in of_view)
        thin = [points[:, self._pick, self._pick] for points in of_view]
        poses = torch.eye(4).repeat(len(every), self.views.count, 1, 1)
        curves: dict[int, dict[str, np.ndarray]] = {}
        for view in range(2, self.views.count + 1):
            pair = PairSteps(thin[0], thin[view - 1])
            errors, poses[:, view - 1] = measure(pair, self._thin, view)
            curves[view] = {name: error.cpu().numpy() for name, error in errors.items()}
        path = poses.numpy()
        if before is not None and start:
            shown = tuple(
                np.concatenate([b[:start], s]) for b, s in zip(before.points, shown, strict=True)
            )
            path = np.concatenate([before.poses[:start], path])
            curves = {view: _joined(before.curves[view], c, start) for view, c in curves.items()}
        head_poses = self._head_poses(output, edits)
        if head_poses is not None:
            for view, curve in curves.items():
                true = self.reference.pose(view)[:, :3, :3].expand(len(self.steps), -1, -1)
                turned = rotation_error(head_poses[:, view - 1, :3, :3], true)
                curve[HEAD_ROTATION] = turned.cpu().numpy()
        return Run(
            steps=self.steps,
            points=shown,
            confidence=tuple(self._shown(c)[0] for c in output.confidence),
            poses=path,
            head_poses=None if head_poses is None else head_poses.cpu().numpy(),
            curves=curves,
            final=tuple(every[-1]),
        )

    def _head_poses(
        self, output: Prediction, edits: Sequence[Edit]
    ) -> Float[Tensor, "s v 4 4"] | None:
        """Return what the camera head says at every step: after the last block that is done."""
        if not isinstance(self.probed.model, ReadsBlocks):
            return None
        found = camera_path(self.probed.model, self.views, edits=edits).cam_to_world[:, 0]
        stack, done, rows = trunk(self.probed.model), 0, []
        for step in self.steps:
            if step.sublayer == OUTPUT:
                done = stack.blocks - 1
            elif step.block is not None and step.sublayer == stack.sublayers[step.block][-1]:
                done = step.block
            rows.append(done)
        poses = self.reference.normalise_poses(found.flatten(0, 1)[None], output.points)
        return poses.reshape_as(found)[rows]

    def _shown(self, values: Tensor) -> np.ndarray:
        """Return maps of one view at the pixels that are drawn."""
        return values[:, :: self.stride, :: self.stride].float().cpu().numpy()


def check_views(model: Model, views: int) -> None:
    """Raise Prob3rError unless the model takes so many views and the viewer shows them."""
    needs_pointmaps(model, "view")
    check_count(model, views)
    if views > MOST_VIEWS:
        raise Prob3rError(
            f"The viewer shows at most {MOST_VIEWS} views, and there are {views}; give fewer."
        )


def _drawable(focal: list[float], width: int) -> list[float]:
    """Return focal lengths, or those of a usual lens where a pointmap states none that can be."""
    if all(0.2 * width < length < 10 * width for length in focal):
        return focal
    return [float(width), float(width)]


def _joined(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], start: int
) -> dict[str, np.ndarray]:
    """Return curves that follow one run up to a step, and another from there on."""
    return {name: np.concatenate([before[name][:start], curve]) for name, curve in after.items()}


def _bytes(image: Float[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as bytes."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()
