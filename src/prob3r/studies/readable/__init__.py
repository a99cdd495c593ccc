"""What can be read where: eight targets at every site of view 2, each with its controls.

Probes in closed form (`prob3r.probes.targets`) read the pointmap, depth, normals, co-visibility,
matches, instances, the relative pose and epipolar geometry from the residual stream of view 2,
after every sublayer of the trunk. They are fitted to the truth of training rooms: 64 or more for
targets of patches, 768 for targets of pairs. The error of a pair at a site is the mean over its
patches that have the target.

The controls are: the same probes of a backbone with random weights (`random`); the same probes of
the encoder's output, which depends on view 2 alone, or of the trunk's input if the model has no
separate encoder (`encoder`); the same probes with a view 1 from elsewhere (`shuffled`); and a
prediction without any input, the mean over the training rooms (`mean`). Matches are also compared
with the guess that a patch matches the same position in the other view (`same place`), and
instances with the probe of pointmaps, whose point also has a nearest centre (`pointmap`). Targets
of pairs are read from the mean of view 2's patches, and also from the `camera token` if there is
one.

A target is judged by its first error at one site: the site with the least error on scenes that were
held out from fitting. Random weights are judged at their own best site, chosen in the same way.
Effects are medians over pairs of differences of errors, pair by pair, with 95 % bootstrap
intervals.

Rules, for each target:

- *Probes of the trunk read it*: supported if the error is below that of random weights and below
  that of the mean, both intervals excluding zero; not supported if either median difference is not
  below zero; else mixed.
- *It takes both views to read it* (of co-visibility, match, pose and epipolar geometry, which
  relate two views): supported if the error is below the shuffled one and below the encoder's, both
  intervals excluding zero; not supported if either median difference is not below zero; else mixed.
  The guess of the same place is used instead of the encoder if it does better.

Pointmaps and instances depend on view 1 only by their frame. Depth and normals do not depend on it.
The increase of their errors with view 1 shuffled is reported without a verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval, patch_grid, pixel_grid
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.statistics import as_text, median_interval
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes import Asked, RidgeBank, backbone_of, provide_each
from prob3r.probes.provide import scenes_to_fit
from prob3r.probes.settings import groups
from prob3r.probes.targets import PAIR, POINTMAP, TARGETS, TRUTH, Goals, Target
from prob3r.runs.precision import running_precision
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair
from prob3r.studies.framework.study import Study
from prob3r.studies.framework.tested import MODEL, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, Verdict, decide
from prob3r.studies.readable.figures import draw_curves, draw_overview
from prob3r.studies.readable.rows import (
    CAMERA,
    CAMERA_TOKEN,
    ENCODER,
    MEAN,
    POINTS,
    RANDOM,
    SAME_PLACE,
    Level,
    level,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENES: int | None = None
"""Number of rooms for fitting; None is the default, which depends on the width."""

CLAIM = "readable"
INSTANCE, MATCH = "instance", "match"
OF_TWO_VIEWS = ("covisibility", "match", "pose", "epipolar")
"""The targets that relate two views and cannot be seen in one view."""


class _Reader(NamedTuple):
    """Probes of one source, and the model whose sites they read."""

    model: Model
    banks: Mapping[str, RidgeBank]

    def sites(self) -> list[str]:
        """Return the sites of view 2 that are read, in their order."""
        found = {s: None for bank in self.banks.values() for s in bank.sites}
        return [site for site in found if Site.parse(site).view == 2]


class Readable(Study):
    """The errors of probes of every target at every site of view 2."""

    name = "readable"
    title = "What can be read where"
    place = 4.5
    most = 256

    def __init__(self) -> None:
        self.readers: dict[str, _Reader] = {}

    def prepares_on(self, model: Model) -> int:
        """Return the number of runs that fit all probes, if none of them are kept."""
        return 2 * scenes_to_fit(model, list(TARGETS), Asked(scenes=SCENES))

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Fit the probes of all targets, of the model and of its controls, or load kept ones."""
        if not len(pairs):
            raise Prob3rError("There are no pairs to read; give at least one.")
        model = tested.model
        apart = len(groups(model)) > 1
        kinds = ["ridge", RANDOM, *([ENCODER] if apart else [])]
        asked = Asked(scenes=SCENES, precision=running_precision(model))
        banks = provide_each(model, kinds, list(TARGETS), asked, tested.name)
        of = {kind: {name: found[kind] for name, found in banks.items()} for kind in kinds}
        untrained = backbone_of(next(iter(of[RANDOM].values())), model)
        self.readers = {MODEL: _Reader(model, of["ridge"]), RANDOM: _Reader(untrained, of[RANDOM])}
        if apart:
            self.readers[ENCODER] = _Reader(model, of[ENCODER])
        if CAMERA in trunk(model).layout(2).special:
            of_pairs = [name for name, target in TARGETS.items() if target.level == PAIR]
            read = provide_each(model, ["ridge"], of_pairs, replace(asked, token=CAMERA))
            banks_of = {name: found["ridge"] for name, found in read.items()}
            self.readers[CAMERA_TOKEN] = _Reader(model, banks_of)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the errors of all targets at all sites, of the model and of the controls."""
        patch = tested.model.config.patch
        goals = {
            name: target.truth(pair, 2, patch)
            for name, target in TARGETS.items()
            if not target.lacks(pair)
        }
        parts = []
        for source, reader in self.readers.items():
            run = trace(reader.model, pair, reader.sites(), output=False)
            parts.append(_rows(reader, run, goals).assign(source=source))
            if source == MODEL:
                parts.append(_instances_by_points(reader, run, goals).assign(source=POINTS))
        if ENCODER not in self.readers:
            start = str(Site(trunk(tested.model).name, 2, None, "embed"))
            parts.append(parts[0][parts[0].site == start].assign(source=ENCODER, chosen=True))
        control, reader = shuffled(pair), self.readers[MODEL]
        run = trace(reader.model, control.pair, reader.sites(), output=False)
        parts.append(control.masked(_rows(reader, run, goals)).assign(source=SHUFFLED))
        parts += [_means(reader, goals, len(pair)), _same_places(pair, goals, patch)]
        return pd.concat([part for part in parts if len(part)], ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers, two of each target that relates two views and one of the others."""
        found = []
        for name in TARGETS:
            rows = table[table.target == name]
            if len(rows):
                found.append(_read(name, rows))
                if name in OF_TWO_VIEWS:
                    found.append(_of_both_views(name, rows))
        return found

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the errors of every target over the sites, and all targets in one picture."""
        return {"targets": draw_curves(table), "overview": draw_overview(table)}


def flat(raw: Float[Tensor, "b n p c"], target: Target) -> Float[Tensor, "m o"]:
    """Return a bank's raw output in the layout of goals: channel by channel, own channels only."""
    return raw[..., : target.channels].mT.flatten(2).flatten(0, 1)


def _rows(reader: _Reader, run: Trace, goals: Mapping[str, Goals]) -> pd.DataFrame:
    """Return the errors of a reader's banks at every site of a run."""
    parts = []
    for name in [name for name in goals if name in reader.banks]:
        target, bank, wanted = TARGETS[name], reader.banks[name], goals[name]
        assert bank.fit is not None
        sites = [site for site in bank.sites if Site.parse(site).view == 2]
        held = {s: e for s, e in zip(bank.sites, bank.fit.errors, strict=True) if s in sites}
        best = min(held, key=held.__getitem__)
        for site in sites:
            told = flat(bank.raw(run[site]), target)
            errors = _errors(target, told, wanted, len(run[site]))
            parts.append(errors.assign(site=site, chosen=site == best))
    return pd.concat(parts, ignore_index=True)


def _errors(target: Target, told: Float[Tensor, "n o"], goals: Goals, pairs: int) -> pd.DataFrame:
    """Return every pair's mean errors over its patches, or its own for a target of pairs."""
    true = goals.raw[:, : told.shape[1]]
    errors = target.errors(told, true, goals.units[TRUTH], goals.beside)
    parts = []
    for metric, values in errors.items():
        by_pair = values.where(goals.known, torch.nan).unflatten(0, (pairs, -1)).nanmean(1)
        rows = {"pair": range(pairs), "metric": metric, "value": by_pair.cpu().numpy()}
        parts.append(pd.DataFrame({"target": target.name} | rows))
    return pd.concat(parts, ignore_index=True)


def _instances_by_points(reader: _Reader, run: Trace, goals: Mapping[str, Goals]) -> pd.DataFrame:
    """Return the errors of instances by the points that the probes of pointmaps predict."""
    if INSTANCE not in goals or POINTMAP.name not in goals:
        return pd.DataFrame()
    bank, target, parts = reader.banks[POINTMAP.name], TARGETS[INSTANCE], []
    middle = bank.patch // 2 * (bank.patch + 1)  # the central pixel of a patch
    for site in reader.sites():
        told = bank.raw(run[site])[:, :, middle, : target.channels].flatten(0, 1)
        errors = _errors(target, told, goals[INSTANCE], len(run[site]))
        parts.append(errors.assign(site=site, chosen=False))
    return pd.concat(parts, ignore_index=True)


def _means(reader: _Reader, goals: Mapping[str, Goals], pairs: int) -> pd.DataFrame:
    """Return the errors of the prediction of each target without any input."""
    parts = []
    for name, wanted in goals.items():
        fit = reader.banks[name].fit
        assert fit is not None
        told = wanted.raw.new_tensor(fit.average).expand(len(wanted.raw), -1)
        parts.append(_errors(TARGETS[name], told, wanted, pairs))
    return pd.concat(parts, ignore_index=True).assign(site="", chosen=True, source=MEAN)


def _same_places(pair: Pair, goals: Mapping[str, Goals], patch: int) -> pd.DataFrame:
    """Return the errors of the guess that a patch matches the same position in view 1."""
    if MATCH not in goals:
        return pd.DataFrame()
    rows, columns = patch_grid(*pair.view2.size, patch)
    own = pixel_grid(rows, columns, device=pair.view2.image.device).flatten(0, 1)
    told = own.repeat(len(pair), 1)
    errors = _errors(TARGETS[MATCH], told, goals[MATCH], len(pair))
    return errors.assign(site="", chosen=True, source=SAME_PLACE)


def _less(one: Level, other: Level) -> Interval:
    """Return the median of the differences of two errors, pair by pair, with its interval."""
    return median_interval(one.errors - other.errors)


def _verdict(gaps: Sequence[Interval]) -> Verdict:
    """Return the verdict on *all of these differences are below zero*."""
    supported = all(gap.high < 0 for gap in gaps)
    return decide(supported, not supported and not all(gap.value < 0 for gap in gaps))


def _read(name: str, rows: pd.DataFrame) -> Finding:
    own, untrained, mean = (level(rows, source) for source in (MODEL, RANDOM, MEAN))
    gaps = [_less(own, other) for other in (untrained, mean)]
    last = level(rows, MODEL, site=own.sites[-1])
    controls = f"; at the last site {last}; random weights {untrained} at {untrained.site}; "
    controls += f"mean {mean}; encoder {level(rows, ENCODER)}"
    if not rows[rows.source == SHUFFLED].value.isna().all():
        controls += f"; shuffled {level(rows, SHUFFLED, site=own.site)}"
    if (rows.source == CAMERA_TOKEN).any():
        camera = level(rows, CAMERA_TOKEN)
        controls += f"; camera token {camera} at {camera.site}"
    if (rows.source == POINTS).any():
        controls += f"; by the point of the pointmap's probe {level(rows, POINTS, site=own.site)}"
    return Finding(
        CLAIM,
        f"Probes of the trunk read {TARGETS[name].title}",
        _verdict(gaps),
        *gaps[0],
        unit=f"{own.metric}, less that of random weights",
        control=f"error {own} at {own.site}, which held-out scenes chose{controls}",
        pairs=int((~own.errors.isnan()).sum()),
    )


def _of_both_views(name: str, rows: pd.DataFrame) -> Finding:
    own = level(rows, MODEL)
    control, alone = level(rows, SHUFFLED, site=own.site), level(rows, ENCODER)
    said = "the encoder's output"
    if (rows.source == SAME_PLACE).any():
        guess = level(rows, SAME_PLACE)
        if guess.middle.value < alone.middle.value:
            alone, said = guess, "the guess of the same place"
    gaps = [_less(own, other) for other in (control, alone)]
    measured = not control.errors.isnan().all()
    return Finding(
        CLAIM,
        f"It takes both views to read {TARGETS[name].title}",
        _verdict(gaps) if measured else "mixed",
        *gaps[0],
        unit=f"{own.metric}, less that with view 1 shuffled",
        control=f"error {own} at {own.site}; shuffled {control}; {said} {alone}, a difference of "
        f"{as_text(gaps[1])}" + ("" if measured else "; no pair has a shuffled control"),
        pairs=int((~(own.errors - control.errors).isnan()).sum()),
    )
