"""The numbers that an explanation uses, and how they are computed from one run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PatchMatches
from prob3r.io.files import to_json
from prob3r.measures.attention import AttentionRecords, HeadStatistics, Strongest
from prob3r.measures.camera_path import CameraCurves
from prob3r.measures.reconstruction import EstimatedCameras, Final, Matches, reconstruction
from prob3r.measures.reference import Points, Reference, errors_by_step
from prob3r.measures.steps import OUTPUT, Step, trunk_steps
from prob3r.measures.views import ViewRelations
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.probes import Decoded, SiteReader
from prob3r.runs.edits import Edit
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import Views


@dataclass(frozen=True)
class Provenance:
    """What was explained, and with what.

    Attributes:
        model: Name of the model.
        fingerprint: Fingerprint of its weights.
        probes: Kind of the probes, such as `mlp`, or `none`.
        fitted: The target and the data of the probes, in words; empty if not known.
        pair: Name of the scene.
        reference: What curves are measured against, unless `against` says otherwise.
        sizes: Height and width of every view, in pixels.
        patch: Side of a patch, in pixels.
        versions: Versions of prob3r and of torch.
        precision: Precision of the model's matrix products.
    """

    model: str
    fingerprint: str
    probes: str
    fitted: str
    pair: str
    reference: str
    sizes: tuple[tuple[int, int], ...]
    patch: int
    versions: dict[str, str]
    precision: str


@dataclass(frozen=True)
class Measurements:
    """Everything measured of one scene.

    Attributes:
        provenance: What was explained, and with what.
        finals: The model's output of view 1 and each other view, by the other view's number.
        steps: The sites of the trunk in their order, then the output.
        curves: By view and metric, one value a step; NaN where there is none. The metrics are
            those of `errors.METRICS`, and the median `confidence`.
        against: By view and metric, what the curve is measured against.
        heads: Rows of the table of heads.
        relations: How the views relate to one another.
        camera_path: What the model's own camera head says at every block; None without such a head.
    """

    provenance: Provenance
    finals: dict[int, Final]
    steps: list[Step]
    curves: dict[int, dict[str, list[float]]]
    against: dict[int, dict[str, str]]
    heads: list[HeadStatistics]
    relations: ViewRelations
    camera_path: CameraCurves | None = None

    @property
    def final(self) -> Final:
        """The output of view 2."""
        return self.finals[2]

    @property
    def views(self) -> int:
        """How many views there are."""
        return len(self.curves)

    def rows(self) -> list[dict[str, Any]]:
        """Return the curves as tidy rows, one for each site of each view."""
        return [
            {
                "site": step.site(view),
                "view": view,
                "block": step.block,
                "sublayer": step.sublayer,
                **{metric: values[i] for metric, values in curves.items()},
            }
            for view, curves in self.curves.items()
            for i, step in enumerate(self.steps)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them; see `Explanation.to_json`."""
        content: dict[str, Any] = {
            "setting": asdict(self.provenance),
            "final": asdict(self.final),
            "against": {f"view{view}": kinds for view, kinds in self.against.items()},
            "sites": self.rows(),
            "heads": [asdict(head) for head in self.heads],
        }
        if self.views == 2:
            for head in content["heads"]:
                del head["view"]  # it is view 2 for all heads
        else:
            content["finals"] = {f"view{view}": asdict(f) for view, f in self.finals.items()}
            content["relations"] = asdict(self.relations)
        if self.camera_path is not None:
            content["camera_path"] = self.camera_path.to_json()
        return to_json(content)


class Measured(NamedTuple):
    """What is measured of one run: the numbers, and the tensors that are shown.

    Lengths are in the unit of the views' joint mean distance to camera 1.

    Attributes:
        measurements: The numbers.
        reference: What the curves are measured against.
        points: All views' pointmaps at every step, each step in its own unit; the output last.
        confidence: All views' confidence in the output.
        poses: Poses of all cameras at every step, as the pointmaps state them relative to the
            reference.
        focal: Focal lengths of all views in x and y, in pixels.
        cameras: The cameras estimated from the output's pointmaps.
        matches: By view from view 2 on, its matches in view 1 by the output's own pointmaps.
        attention: The most attended patches of one view for every patch of another view, by the
            numbers of the attending view and the attended view.
    """

    measurements: Measurements
    reference: Reference
    points: list[Points]
    confidence: tuple[Float[Tensor, "1 _h _w"], ...]
    poses: Float[Tensor, "steps v 4 4"]
    focal: Float[Tensor, "v 2"]
    cameras: EstimatedCameras
    matches: dict[int, PatchMatches]
    attention: dict[tuple[int, int], Strongest]


class Recording(NamedTuple):
    """What is recorded of one run of one scene: all that measures and signals need.

    Attributes:
        steps: The steps that the probes read; none without probes.
        attention: Reads the attention between views.
        sites: All sites to record.
    """

    steps: list[Step]
    attention: AttentionRecords
    sites: list[str]

    @classmethod
    def of(cls, model: Model, views: Views, bank: SiteReader | None) -> "Recording":
        """Return what is recorded of a model.

        Raises:
            Prob3rError: The probes read no site of all views in the trunk.
        """
        steps = [] if bank is None else trunk_steps(bank, trunk(model), views.count)
        attention = AttentionRecords(model, views)
        streams = [step.site(view) for step in steps for view in range(1, views.count + 1)]
        return cls(steps, attention, [*streams, *attention.sites()])

    def run(self, model: Model, views: Views, edits: Sequence[Edit] = ()) -> Trace:
        """Run the model once. Raise Prob3rError if an edit does not fit."""
        return trace(model, views, self.sites, edits, reductions=self.attention.reductions)


def measure(
    run: Trace,
    views: Views,
    bank: SiteReader | None,
    recording: Recording,
    provenance: Provenance,
    report: Callable[[str, float], None],
) -> Measured:
    """Return all that is measured of one run.

    Args:
        run: A run of one scene, with the sites of `recording` recorded.
        views: The scene.
        bank: The probes, if there are any.
        recording: What is recorded.
        provenance: What is explained; its `reference` is filled in.
        report: Called with what is done next, and the share of the work that is done.
    """
    sites, attention = recording.steps, recording.attention
    assert run.output is not None
    numbers, final, confidence = range(1, views.count + 1), run.output.points, run.output.confidence
    report("Decoding every site", 0.2)
    decoded: list[list[Decoded]] = []
    if bank is not None:
        decoded = [[bank.decode(run[step.site(view)]) for view in numbers] for step in sites]
    sure = [[one.confidence for one in every] for every in decoded] + [list(confidence)]

    report("Finding the cameras", 0.4)
    cameras = EstimatedCameras.of(views, final, confidence[0])
    reference = Reference.of(views, final, cameras.poses)
    raw: list[Points] = [tuple(one.points for one in every) for every in decoded] + [final]
    points = [reference.normalise(every) for every in raw]
    cameras = cameras._replace(poses=reference.normalise_poses(cameras.poses, final))

    report("Measuring every site", 0.5)
    curves, against = errors_by_step(views, points, reference)
    for view in numbers:
        curves[view]["confidence"] = [float(every[view - 1].median()) for every in sure]

    report("Reading the attention", 0.8)
    strongest, patch = attention.strongest(run), provenance.patch
    heads, finals, found = list[HeadStatistics](), dict[int, Final](), dict[int, PatchMatches]()
    for view in numbers[1:]:
        matches = Matches.of(views, points[-1], cameras, view, patch)
        found[view] = matches.final
        heads += attention.heads(run, strongest, view, matches.final, matches.true)
        both, sure_of = ((every[0], every[view - 1]) for every in (points[-1], confidence))
        probed = points[-2][view - 1] if sites else None
        finals[view] = reconstruction(
            views.pair(1, view), both, sure_of, probed, cameras, matches, view, patch
        )
    relations = ViewRelations.of_run(attention, run, points[-1], cameras, patch)
    steps = [*sites, Step(None, OUTPUT)]
    provenance = replace(provenance, reference=reference.kind)
    return Measured(
        measurements=Measurements(provenance, finals, steps, curves, against, heads, relations),
        reference=reference,
        points=points,
        confidence=confidence,
        poses=_poses(points, reference),
        focal=torch.stack([torch.diagonal(matrix)[:2] for matrix in cameras.intrinsics]),
        cameras=cameras,
        matches=found,
        attention=strongest,
    )


def _poses(points: Sequence[Points], reference: Reference) -> Float[Tensor, "steps v 4 4"]:
    """Return the poses of all cameras at every step, as their pointmaps state them."""
    poses = torch.eye(4).repeat(len(points), len(points[0]), 1, 1)
    for at_step, every in zip(poses, points, strict=True):
        for view, own in enumerate(every[1:], 2):
            fit = reference.fit(own, view)
            at_step[view - 1, :3, :3] = fit.rotation[0]
            at_step[view - 1, :3, 3] = fit.translation[0]
    return poses
