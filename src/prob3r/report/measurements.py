"""The plain numbers that an explanation rests on."""

from dataclasses import asdict, dataclass
from typing import Any

from prob3r.io.files import plain
from prob3r.report.attention import Head
from prob3r.report.steps import Step


@dataclass(frozen=True)
class Setting:
    """What was explained, and with what.

    Attributes:
        model: Name of the model.
        fingerprint: Of its weights.
        probes: Kind of the probes, such as `mlp`.
        pair: Name of the pair.
        reference: What curves are measured against where `against` says nothing else.
        sizes: Height and width of both views, in pixels.
        patch: Side of a patch, in pixels.
        versions: Of prob3r and of torch.
    """

    model: str
    fingerprint: str
    probes: str
    pair: str
    reference: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    patch: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Final:
    """The model's output as a reconstruction.

    Lengths are in the pair's unit, its mean distance to camera 1.

    Attributes:
        camera2_to_1: Pose of camera 2 in camera 1's frame, by PnP; the identity if none is found.
        pose_found: Whether PnP found it.
        inliers: Share of view 2's pixels whose point is seen where it should be.
        rotation: Between the cameras, in degrees.
        baseline: Between the cameras, as a share of the mean depth of both views.
        focal: Of view 1, in pixels.
        focal_known: Whether it was given rather than read off view 1's pointmap.
        field_of_view: Of view 1, horizontal, in degrees.
        confidence: Median of each view; 1 is the least there is.
        unsure: Share of each view's pixels with a confidence below `LOW_CONFIDENCE`.
        overlap: Share of view 2's patches that view 1 sees too, by the model's own pointmaps.
        true_overlap: The same by the true pointmaps; NaN where they are not known.
        probe_gap: Mean distance of the last probe's view 2 to the output's.
        image_difference: Mean difference of the two images' colours, of at most 1; NaN for images
            of two sizes.
        chance: Agreement that heads looking anywhere would have.
    """

    camera2_to_1: list[list[float]]
    pose_found: bool
    inliers: float
    rotation: float
    baseline: float
    focal: float
    focal_known: bool
    field_of_view: float
    confidence: tuple[float, float]
    unsure: tuple[float, float]
    overlap: float
    true_overlap: float
    probe_gap: float
    image_difference: float
    chance: float


LOW_CONFIDENCE = 1.5


@dataclass(frozen=True)
class Measurements:
    """Everything measured of one pair.

    Attributes:
        setting: What was explained, and with what.
        final: The model's output.
        steps: The decoders' sites in their order, then the output.
        curves: By view and metric, one value a step; NaN where there is none. The metrics are
            those of `reference.METRICS`, and the median `confidence`.
        against: By view and metric, what the curve is measured against.
        heads: Rows of the table of heads.
    """

    setting: Setting
    final: Final
    steps: list[Step]
    curves: dict[int, dict[str, list[float]]]
    against: dict[int, dict[str, str]]
    heads: list[Head]

    def rows(self) -> list[dict[str, Any]]:
        """Return the curves as tidy rows, one for each site of each view."""
        return [
            {
                "site": step.site(view),
                "view": view,
                "block": step.block,
                "sublayer": step.sublayer,
                **{metric: values[i] for metric, values in self.curves[view].items()},
            }
            for view in (1, 2)
            for i, step in enumerate(self.steps)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON can hold them; see `Explanation.to_json`."""
        return plain(
            {
                "setting": asdict(self.setting),
                "final": asdict(self.final),
                "against": {f"view{view}": kinds for view, kinds in self.against.items()},
                "sites": self.rows(),
                "heads": [asdict(head) for head in self.heads],
            }
        )
