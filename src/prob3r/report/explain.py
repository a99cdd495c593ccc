"""Explain: run a model over one pair and measure what happens to it on the way."""

from collections.abc import Callable, Sequence
from importlib import metadata

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.probes import SiteReader, check_backbone
from prob3r.reliability.calibration import Calibration
from prob3r.report.attention import NAMES, heads_table, reductions, strongest
from prob3r.report.effects import with_effects
from prob3r.report.explanation import Explanation
from prob3r.report.final import Cameras, Matches, reconstruction
from prob3r.report.measurements import Measurements, Setting
from prob3r.report.reference import Points, Reference, measure
from prob3r.report.reliability import reliability
from prob3r.report.sentences import trust, what_happened
from prob3r.report.steps import Step, decoder_steps
from prob3r.runs.edits import Edit
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import Pair

ATTENTION_KEYS = 2_000_000
"""Keys kept of all queries, heads and blocks of both views: all there are in a small model."""


def _silent(what: str, share: float) -> None:
    """Report no progress."""


def explain(
    model: Model,
    pair: Pair,
    bank: SiteReader,
    *,
    model_name: str,
    edits: Sequence[Edit] = (),
    head_effects: bool = False,
    calibration: Calibration | None = None,
    progress: Callable[[str, float], None] = _silent,
) -> Explanation:
    """Return what happens to a pair inside a model.

    Args:
        model: The model.
        pair: A batch of one.
        bank: Probes of the model's decoders, or a lens.
        model_name: What to call the model.
        edits: Changes to make on the way; what is explained is the edited run.
        head_effects: Whether to switch off every head of view 2's cross-attention, one at a time.
        calibration: Of the model and the bank, to say how likely a wrong outcome is. It is not
            asked about an edited run, of which it knows nothing.
        progress: Called with what is done next, and the share of the work that is behind.

    Raises:
        Prob3rError: The pair is a batch of several, or the bank or the calibration is not one for
            this model.
    """
    if len(pair) != 1:
        raise Prob3rError(f"The pair is a batch of {len(pair)}; an explanation is of one pair.")
    sites = decoder_steps(bank.sites)
    weights = check_backbone(bank, model)
    blocks, patch = trunk(model).blocks, model.config.patch

    progress("Running the model", 0.0)
    run = _run(model, pair, sites, edits)
    assert run.output is not None
    confidence = run.output.confidence

    progress("Decoding every site", 0.2)
    decoded = [tuple(bank.decode(run[step.site(view)]) for view in (1, 2)) for step in sites]
    raw: list[Points] = [(one.points, two.points) for one, two in decoded] + [run.output.points]
    sure = [(one.confidence, two.confidence) for one, two in decoded] + [confidence]
    steps = [*sites, Step(None, "output")]

    progress("Finding the cameras", 0.4)
    cameras = Cameras.of(pair, run.output.points, confidence[0])
    reference = Reference.of(pair, run.output.points, cameras.pose)
    points = [reference.normalise(both) for both in raw]
    cameras = cameras._replace(pose=reference.normalise_pose(cameras.pose, run.output.points))

    progress("Measuring every site", 0.5)
    curves, against = measure(pair, points, reference)
    for view in (1, 2):
        curves[view]["confidence"] = [float(both[view - 1].median()) for both in sure]

    progress("Reading the attention", 0.8)
    matches = Matches.of(pair, points[-1], cameras, patch)
    grids = patch_grid(*pair.view1.size, patch), patch_grid(*pair.view2.size, patch)
    heads = heads_table(run, blocks, grids, matches.final, matches.true)
    if head_effects:
        what = "Switching off every head"
        heads = with_effects(heads, model, pair, reference, lambda s: progress(what, 0.85 + s / 10))
    measurements = Measurements(
        setting=Setting(
            model=model_name,
            fingerprint=weights,
            probes=bank.kind,
            pair=pair.names[0] if pair.names else "two views",
            reference=reference.kind,
            sizes=(pair.view1.size, pair.view2.size),
            patch=patch,
            versions={name: metadata.version(name) for name in ("prob3r", "torch")},
        ),
        final=reconstruction(pair, points[-1], confidence, points[-2][1], cameras, matches, patch),
        steps=steps,
        curves=curves,
        against=against,
        heads=heads,
    )
    judged = calibration.judge(model, pair, bank) if calibration and not edits else None
    explanation = Explanation(
        measurements=measurements,
        happened=what_happened(measurements),
        trust=[*reliability(judged, measurements.setting.pair), *trust(measurements)],
        pair=pair,
        reference=reference,
        points=points,
        confidence=confidence,
        cameras=_poses(points, reference),
        focal=torch.stack([torch.diagonal(matrix)[:2] for matrix in cameras.intrinsics]),
        matches=matches.final,
        attention=(strongest(run, 1, blocks), strongest(run, 2, blocks)),
        reliability=judged,
    )
    progress("Done", 1.0)
    return explanation


def _run(model: Model, pair: Pair, steps: Sequence[Step], edits: Sequence[Edit]) -> Trace:
    """Record the residual stream at every step, and what is kept of the cross-attention."""
    config = model.config
    queries = sum(h * w // config.patch**2 for h, w in (pair.view1.size, pair.view2.size))
    stack = trunk(model)
    rows = queries * stack.blocks * (stack.heads + 1)
    top = max(1, ATTENTION_KEYS // rows)
    residuals = [step.site(view) for step in steps for view in (1, 2)]
    attention = [f"dec?.*.cross_attn.{name}" for name in NAMES]
    return trace(model, pair, residuals + attention, edits, reductions=reductions(top))


def _poses(points: Sequence[Points], reference: Reference) -> Float[Tensor, "steps 4 4"]:
    """Camera 2's pose at every step, as its pointmap states it relative to the reference."""
    poses = torch.eye(4).repeat(len(points), 1, 1)
    for pose, (_, second) in zip(poses, points, strict=True):
        fit = reference.fit(second)
        pose[:3, :3], pose[:3, 3] = fit.rotation[0], fit.translation[0]
    return poses
