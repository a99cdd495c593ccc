"""Fitting banks in closed form: one pass of the backbone over some scenes, no learning rate.

Every site has normal equations of its own, which grow while scenes stream by. Further scenes are
held out: they choose each site's regulariser. A probe of view 2 is fitted on all views after the
first, since models of many views treat these alike. A target of pairs is decoded from the mean of a
view's patches or from a special token. Each view of a scene then gives one row, and the regression
is on standardised inputs.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import Model, fingerprint
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes.equations import GRID, NormalEquations
from prob3r.probes.refine import refine
from prob3r.probes.ridge import Fit, RidgeBank
from prob3r.probes.scenes import FitScenes
from prob3r.probes.settings import FitSettings, SiteGroup, groups, patch_share
from prob3r.probes.targets import OWN, POINTMAP, Goals, Whose
from prob3r.runs.encoded import reusing_views
from prob3r.runs.precision import running_precision
from prob3r.runs.trace import Trace, trace
from prob3r.scenes.source import Scenes, batches, describe
from prob3r.scenes.views import Views

HELD_PATCHES = 64  # the number of patches taken of each view of a held-out scene
PAIR_GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The ridges for a target of pairs. They are larger, since there may be fewer rows than inputs."""

_RECORDS = 2**27  # bytes of the streams of one batch
_LARGEST_BATCH = 16
MOST_FORWARDS = 1.25  # the time of a scene with its sums, in model runs; see benchmarks/fit.py
_SOLVING = 0.1  # the share of the work that is left when all scenes have been seen


class FitCost(NamedTuple):
    """The expected cost of a fit, computed before it runs.

    Attributes:
        scenes: The number of scenes to fit on.
        seconds: The approximate time.
        bytes: The memory of the model and of what `Fitting.bytes` counts. Python, its libraries and
            intermediate results need further memory.
    """

    scenes: int
    seconds: float
    bytes: int


def fit_banks(
    model: Model,
    chosen: FitScenes,
    settings: FitSettings,
    report: Callable[[float], None] = lambda share: None,
) -> list[RidgeBank]:
    """Return a bank for each stack of `groups` and for each `whose` of the settings.

    See `fit_together`.
    """
    return fit_together(model, chosen, [settings], report)[0]


def fit_together(
    model: Model,
    chosen: FitScenes,
    settings: Sequence[FitSettings],
    report: Callable[[float], None] = lambda share: None,
    begin: Callable[[FitCost], None] | None = None,
) -> list[list[RidgeBank]]:
    """Return the banks of several fits, which share one pass of the model.

    A model with random weights and a fit with random features get no bank of the encoder.

    Args:
        model: The backbone. It is not changed.
        chosen: The scenes to fit on, and the held-out scenes that choose the regularisers.
        settings: The targets and the kinds of the banks.
        report: A function that is called with the share of the work that is done.
        begin: A function that is called with the cost before the work begins. To find the cost, the
            model runs twice.

    Raises:
        Prob3rError: The target is not known, or is known for too few patches; or the model has no
            such token.
    """
    fits = [Fitting(model, chosen, one) for one in settings]
    total, seen = len(chosen.held_out) + len(chosen.scenes), 0
    if begin is not None:
        seconds = MOST_FORWARDS * total * seconds_of_a_run(model, chosen.held_out) / (1 - _SOLVING)
        weights = sum(weight.nbytes for weight in model.parameters())
        needed = weights + sum(fitting.bytes for fitting in fits)
        begin(FitCost(len(chosen.scenes), seconds, needed))
    for source, held in ((chosen.held_out, True), (chosen.scenes, False)):
        with reusing_views(source, model):
            for batch in batches(source, len(source), min(fit.batch for fit in fits)):
                batch = batch.to(fits[0].device)
                run = trace(model, batch, {s for fit in fits for s in fit.sites(batch.count)})
                for fitting in fits:
                    fitting.add(batch, run, held)
                seen += len(batch)
                report((1 - _SOLVING) * seen / total)
    solved = []
    for number, fitting in enumerate(fits):

        def solving(share: float, done: int = number) -> None:
            report(1 - _SOLVING * (1 - (done + share) / len(fits)))

        solved.append(fitting.solve(solving))
    return solved


def seconds_of_a_run(model: Model, scenes: Scenes[Any]) -> float:
    """Return the seconds to load a scene and run the model over it, of the second of two runs."""
    device, place = next(model.parameters()).device, model.sites()[-1]
    seconds = 0.0
    for row in range(2):
        start = time.monotonic()
        scene = scenes.batch([row % len(scenes)]).to(device)
        trace(model, scene, [place])[place].sum().item()  # waits for the device
        seconds = time.monotonic() - start
    return seconds


class _Held(NamedTuple):
    """Some patches of a batch at one site, and their goals."""

    streams: Float[Tensor, "n d"]
    goals: Goals

    @classmethod
    def join(cls, parts: "Sequence[_Held]") -> "_Held":
        """Return the patches of several batches as one."""
        streams = torch.cat([part.streams for part in parts])
        return cls(streams, Goals.join([part.goals for part in parts]))


class _Chosen(NamedTuple):
    """The result for a probe: its ridge, its held-out error, and the mean of its goals."""

    ridge: float
    error: float
    average: Float[Tensor, " o"]


class Fitting:
    """The normal equations of all sites, while scenes stream by.

    Args:
        model: The backbone.
        chosen: The scenes.
        settings: The target and the kind of the banks.

    Attributes:
        batch: The number of scenes to take at a time, so that their streams take little memory.
    """

    def __init__(self, model: Model, chosen: FitScenes, settings: FitSettings):
        self.model, self.chosen, self.settings, self.groups = model, chosen, settings, groups(model)
        if settings.features or settings.random_seed is not None:
            del self.groups[1:]
        self.device = next(model.parameters()).device
        self.patch = model.config.patch
        self.columns = settings.target.columns(settings.whose, self.patch)
        if settings.token:
            self.groups = [g for g in self.groups if settings.token in g.stack.layout(2).special]
        if not self.groups:
            known = ", ".join(trunk(model).layout(2).special) or "no special tokens"
            raise Prob3rError(
                f"There is no token '{settings.token}' in this model's trunk; it has {known}."
            )
        first = settings.target.first_view
        self.groups = [
            group._replace(sites=tuple(s for s in group.sites if Site.parse(s).view >= first))
            for group in self.groups
        ]
        # All banks have the same random features, and read the same inputs as these.
        self.readers = [self._bank(group) for group in self.groups]
        self.equations = {
            site: NormalEquations(
                reader.inputs_width,
                self.columns.width,
                self.device,
                torch.float64 if settings.of_pairs else torch.float32,
            )
            for reader in self.readers
            for site in reader.sites
        }
        self.held: dict[str, list[_Held]] = {site: [] for site in self.equations}
        # The fitted rows, if the target is refined after the closed form.
        self.kept: dict[str, list[_Held]] = {site: [] for site in self.equations}
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.share = patch_share(model, settings)
        self.views, self.digest = 0, hashlib.blake2b(digest_size=8)
        rows, columns = patch_grid(*model.config.image_size, self.patch)
        width = sum(len(group.sites) * group.stack.width for group in self.groups)
        self.batch = min(_LARGEST_BATCH, max(1, _RECORDS // (4 * rows * columns * width)))

    @property
    def bytes(self) -> int:
        """The memory in bytes of the sums, the banks, the kept streams and a batch's streams."""
        sums = sum(each.gram.nbytes + each.cross.nbytes for each in self.equations.values())
        banks = sum(reader.weight.nbytes for reader in self.readers) * len(self.columns.whose)
        rows, columns = patch_grid(*self.model.config.image_size, self.patch)
        patches, pairs = rows * columns, self.settings.of_pairs
        kept = len(self.chosen.held_out) * (1 if pairs else min(HELD_PATCHES, patches))
        if self.settings.target.refined:
            kept += int(len(self.chosen.scenes) * (1 if pairs else patches * self.share))
        width = sum(len(group.sites) * group.stack.width for group in self.groups)
        return sums + banks + 4 * width * (kept + self.batch * patches)

    def _bank(self, group: SiteGroup) -> RidgeBank:
        """Return a bank that has everything but its weights."""
        seed, features = self.settings.seed, self.settings.features
        bank = RidgeBank(
            group.sites,
            group.stack.width,
            self.patch,
            features=features,
            seed=seed,
            target=self.settings.target,
            token=self.settings.token,
        )
        bank.random_seed = self.settings.random_seed
        bank.draw_features()
        return bank.to(self.device)

    def sites(self, views: int) -> set[str]:
        """Return the sites that are read in scenes with this number of views."""
        return {
            name
            for group in self.groups
            for site in group.sites
            for name in group.read_by(site, views)
        }

    def take(self, batch: Views, held: bool) -> None:
        """Run the model over a batch, and `add` what it records."""
        self.add(batch, trace(self.model, batch, self.sites(batch.count)), held)

    def add(self, batch: Views, run: Trace, held: bool) -> None:
        """Add the patches of a batch to the equations, or keep some of them.

        Args:
            batch: The batch.
            run: The trace of the batch. It must hold the sites of `sites`.
            held: Whether its scenes are held out.
        """
        self.views = batch.count
        for image in batch.images:
            self.digest.update(image.cpu().numpy().tobytes())
        read = {
            site: group.read_by(site, batch.count) for group in self.groups for site in group.sites
        }
        assert run.output is not None
        target, whose = self.settings.target, self.settings.whose
        goals = target.goals(batch, run.output, self.patch, whose)
        height, width = patch_grid(*batch.views[0].size, self.patch)
        share = (
            HELD_PATCHES / (height * width) if held and not self.settings.of_pairs else self.share
        )
        chosen = [None if view is None else self._some(view.known, share) for view in goals]
        wanted = [
            None if view is None or some is None else view.rows(some)
            for view, some in zip(goals, chosen, strict=True)
        ]
        for reader in self.readers:
            for site in reader.sites:
                for name in read[site]:
                    view = Site.parse(name).view - 1
                    rows, some = wanted[view], chosen[view]
                    assert rows is not None
                    streams = reader.streams(run[name]).flatten(0, 1)[some].float()
                    part = _Held(streams, rows)
                    if held:
                        self.held[site].append(part)
                        continue
                    self.equations[site].add(reader.inputs(streams), part.goals.raw)
                    if target.refined:
                        self.kept[site].append(part)

    def solve(self, report: Callable[[float], None] = lambda share: None) -> list[RidgeBank]:
        """Return the banks, ordered by stack and then by `whose`.

        The equations of a site are freed when they are solved.

        Args:
            report: A function that is called with the share of the sites that are solved.

        Raises:
            Prob3rError: There are too few patches.
        """
        backbone, total, solved = fingerprint(self.model), len(self.equations), list[RidgeBank]()
        for group, reader in zip(self.groups, self.readers, strict=True):
            first, *others = self.columns.whose
            banks = {first: reader} | {whose: self._bank(group) for whose in others}
            chosen: dict[Whose, list[_Chosen]] = {whose: [] for whose in banks}
            for row, site in enumerate(group.sites):
                for whose, found in self._solve(site, banks, row).items():
                    chosen[whose].append(found)
                report(1 - len(self.equations) / total)
            for whose, bank in banks.items():
                bank.backbone, bank.fit = backbone, self._fit(whose, chosen[whose])
            solved += banks.values()
        return solved

    def _fit(self, whose: Whose, found: list[_Chosen]) -> Fit:
        """Return the record of a bank's fit, given the results of its sites."""
        ridges, errors, averages = zip(*found, strict=True)
        return Fit(
            whose=whose,
            target=self.settings.target.name,
            data=self.chosen.name,
            scenes=len(self.chosen.scenes),
            held_out=len(self.chosen.held_out),
            views=self.views,
            sample=describe(self.chosen.scenes),
            digest=self.digest.hexdigest(),
            seed=self.chosen.seed,
            precision=running_precision(self.model),
            ridges=ridges,
            errors=errors,
            token=self.settings.token,
            average=tuple(averages[-1].tolist()),
        )

    def _some(self, known: Bool[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
        """Return a mask of a random share of the known patches."""
        if share >= 1:
            return known
        drawn = torch.rand(len(known), generator=self.generator) < share
        return known & drawn.to(known.device)

    def _solve(self, site: str, banks: Mapping[Whose, RidgeBank], row: int) -> dict[Whose, _Chosen]:
        """Set the weights of a site's probes, and return the result for each."""
        equations = self.equations.pop(site)
        parts, kept = self.held.pop(site), self.kept.pop(site)
        bank = next(iter(banks.values()))
        least = 1 if self.settings.of_pairs else bank.inputs_width
        if equations.rows <= least or not parts:
            raise self._too_few(equations.rows, bank)
        held = _Held.join(parts)
        if not len(held.streams):
            raise self._too_few(0, bank)
        solutions = equations.solve(standardised=self.settings.of_pairs)
        del equations
        rotated = solutions.rotate(bank.inputs(held.streams))
        found = {}
        for whose, each in banks.items():
            points = solutions.of(self.columns.of(whose))
            grid = PAIR_GRID if self.settings.of_pairs else GRID
            errors = [self._error(points.predict(rotated, r), held.goals, whose) for r in grid]
            best = min(range(len(grid)), key=errors.__getitem__)
            found[whose] = _Chosen(grid[best], errors[best], points.output_mean)
            weights = [points.weight(grid[best])]
            if kept:
                better = refine(self.settings.target, points, grid[best], _Held.join(kept), held)
                weights = [better[:2]]
                found[whose] = found[whose]._replace(error=better.error)
            weights.append(solutions.of(self.columns.common).weight(grid[best]))
            each.weight.data[row], each.bias.data[row] = (
                torch.cat(tensors, -1) for tensors in zip(*weights, strict=True)
            )
        return found

    def _error(self, predicted: Tensor, goals: Goals, whose: Whose) -> float:
        """Return the mean of a target's first measure over held-out patches."""
        target = self.settings.target
        true = goals.raw[:, self.columns.of(whose)]
        measured = target.errors(predicted, true, goals.units[whose], goals.beside)
        return measured[target.measures[0]].nanmean().item()

    def _too_few(self, rows: int, bank: RidgeBank) -> Prob3rError:
        if self.settings.target.name == POINTMAP.name:
            return Prob3rError(
                f"Only {rows} patches are known in all their pixels, which is too few to fit "
                f"{bank.inputs_width} numbers for each output; give more scenes, or fit to "
                f"'{OWN}'."
            )
        what = "views" if self.settings.of_pairs else "patches"
        return Prob3rError(
            f"The {self.settings.target.name} of only {rows} {what} is known, which is too few to "
            f"fit {bank.inputs_width} numbers for each output; give more scenes."
        )
