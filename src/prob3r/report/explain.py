"""Explain: run a model once on the views of a scene and describe what happens inside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata

from prob3r.cost.fit import check_fits
from prob3r.errors import Prob3rError
from prob3r.measures.camera_path import CameraCurves, camera_path
from prob3r.measures.effects import with_effects
from prob3r.measures.influence import Influence, influences
from prob3r.measures.measurements import Measured, Provenance, Recording, measure
from prob3r.measures.reference import FINAL
from prob3r.models import Model, fingerprint
from prob3r.models.protocol import ReadsBlocks, needs_pointmaps
from prob3r.probes import SiteReader, check_backbone
from prob3r.reliability.calibration import Calibration
from prob3r.reliability.check import Check, check_output
from prob3r.reliability.strangers import StrangerCalibration, belongings
from prob3r.report.check import check_sentences
from prob3r.report.explanation import Explanation
from prob3r.report.many import MANY, trust_in_many, what_happened_to_many
from prob3r.report.reliability import reliability
from prob3r.report.sentences import trust, what_happened
from prob3r.report.strangers import stranger_sentences
from prob3r.runs.edits import Edit
from prob3r.runs.precision import running_precision
from prob3r.scenes import Views

Progress = Callable[[str, float], None]


def _silent(what: str, share: float) -> None:
    """Report no progress."""


def explain(
    model: Model,
    views: Views,
    bank: SiteReader | None,
    *,
    model_name: str,
    edits: Sequence[Edit] = (),
    head_effects: bool = False,
    calibration: Calibration | None = None,
    matcher: str | None = None,
    strangers: StrangerCalibration | None = None,
    progress: Progress = _silent,
) -> Explanation:
    """Return the explanation of a model's run on one scene: numbers, sentences and arrays.

    Args:
        model: The model.
        views: The photographs of one scene, two or more.
        bank: Probes of the model's trunk, or a lens; with None, only the output and the attention
            are explained.
        model_name: The name of the model in the explanation.
        edits: Edits of the run; the edited run is explained.
        head_effects: Whether to measure the effect of switching off each head of the attention
            between views, in every view except view 1.
        calibration: A calibration of this model and bank, which gives the probability of a wrong
            output. It is used for pairs only, and not for an edited run, because it was not
            calibrated on edited runs.
        matcher: Name of the matcher of an independent check, see `reliability.matchers`; with None
            no check is made.
        strangers: A calibration of this model, which gives the probability that a view belongs to
            another scene. It is used for three or more views, and not for an edited run.
        progress: Called with the name of the next step, and the share of the work that is done.

    Raises:
        Prob3rError: There are several scenes; the model predicts no pointmaps; there are more views
            than the model takes or memory holds; the bank or a calibration is not for this model;
            or the matcher is not installed.
    """
    check_views(model, views)
    provenance = _provenance(model, views, bank, model_name)
    if strangers is not None:
        strangers.check(model)
        strangers = None if edits else strangers
    recording = Recording.of(model, views, bank)
    if views.count > 2:
        size = max((view.size for view in views.views), key=math.prod)
        check_fits(model, views.count, size, recording.sites)
    progress("Running the model", 0.0)
    run = recording.run(model, views, edits)
    found = measure(run, views, bank, recording, provenance, progress)
    if isinstance(model, ReadsBlocks):
        progress("Reading the camera head", 0.84)
        path = CameraCurves.of(camera_path(model, views, edits=edits), views)
        measurements = replace(found.measurements, camera_path=path)
        found = found._replace(measurements=measurements)
    if head_effects:
        found = _with_effects(found, model, views, progress)
    checks: list[Check] = []
    if matcher is not None:
        progress("Matching the photographs", 0.96)
        checks = check_output(views, found.points[-1], found.cameras, matcher)
    judged = None
    if calibration is not None and bank is not None and views.count == 2 and not edits:
        first = checks[0] if checks else None
        judged = calibration.judge(model, views.pair(1, 2), bank, run, first)
    belonging = belongings(found.measurements.relations, strangers)
    decides: list[Influence] = []
    if not edits:

        def asked(share: float) -> None:
            progress("Measuring what decides the cameras", 0.97 + 0.03 * share)

        decides = influences(model, views, asked)
    progress("Done", 1.0)
    many = views.count >= MANY
    return Explanation(
        measured=found,
        happened=(what_happened_to_many if many else what_happened)(found.measurements),
        trust=[
            *reliability(judged, provenance.pair),
            *stranger_sentences(belonging, strangers, provenance.pair),
            *check_sentences(checks, judged is not None),
            *(trust_in_many if many else trust)(found.measurements),
        ],
        views=views,
        reliability=judged,
        check=checks,
        strangers=belonging,
        influence=decides,
    )


def _with_effects(found: Measured, model: Model, views: Views, progress: Progress) -> Measured:
    """Return the measurements, with the effects of switching off each head added."""
    measurements = found.measurements

    def report(share: float) -> None:
        progress("Switching off every head", 0.85 + share / 10)

    heads = with_effects(measurements.heads, model, views, found.reference, report)
    return found._replace(measurements=replace(measurements, heads=heads))


def check_views(model: Model, views: Views) -> None:
    """Raise Prob3rError unless these are the views of one scene, and no more than a model takes."""
    if len(views) != 1:
        raise Prob3rError(f"There is a batch of {len(views)} scenes; give the views of one scene.")
    check_count(model, views.count)


def check_count(model: Model, views: int) -> None:
    """Raise Prob3rError if a model predicts no pointmaps, or there are more views than it takes."""
    needs_pointmaps(model, "explain")
    most = model.most_views
    if most is not None and views > most:
        raise Prob3rError(f"This model takes at most {most} views, and there are {views}.")


def _provenance(model: Model, views: Views, bank: SiteReader | None, name: str) -> Provenance:
    """Return what is explained and with what; raise Prob3rError if the bank is of another model."""
    unnamed = "two views" if views.count == 2 else f"{views.count} views"
    return Provenance(
        precision=running_precision(model),
        model=name,
        fingerprint=fingerprint(model) if bank is None else check_backbone(bank, model),
        probes="none" if bank is None else bank.kind,
        fitted="" if bank is None else bank.origin,
        pair=views.names[0] if views.names else unnamed,
        reference=FINAL,
        sizes=tuple(view.size for view in views.views),
        patch=model.config.patch,
        versions={name: metadata.version(name) for name in ("prob3r", "torch")},
    )
