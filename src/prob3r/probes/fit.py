"""Fitting banks in closed form: one pass of the backbone over some scenes, no learning rate.

Every site has normal equations of its own, which grow while scenes stream by. Further scenes are
held out: they choose each site's regulariser. A probe of view 2 is fitted on all views but the
first, which models of many views treat alike.
"""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import Model, fingerprint
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import Site
from prob3r.probes.equations import GRID, NormalEquations
from prob3r.probes.ridge import Fit, RidgeBank
from prob3r.probes.scenes import FitScenes
from prob3r.probes.targets import OWN, TRUTH, Columns, Target, ViewTargets, errors_of, targets_of
from prob3r.runs.encoded import reusing_views
from prob3r.runs.trace import trace
from prob3r.scenes.source import batches, describe
from prob3r.scenes.views import Views

PATCHES_PER_UNKNOWN = 20
LEAST_SCENES = 64  # patches of one scene are alike, however many it has
HELD_PATCHES = 512  # of each view of a held-out batch

_RECORDS = 2**27  # bytes of the streams of one batch
_LARGEST_BATCH = 16
_SOLVING = 0.1  # the share of the work that is left when all scenes have been seen


class Group(NamedTuple):
    """The sites of one stack, whose probes become one bank.

    Attributes:
        stack: The stack.
        sites: The sites of views 1 and 2.
    """

    stack: Stack
    sites: tuple[str, ...]

    def read_by(self, site: str, views: int) -> list[str]:
        """Return the sites of all views that the probe of a site is fitted on."""
        place = Site.parse(site)
        return [str(place.of(v)) for v in self.stack.streams(views) if min(v, 2) == place.view]


def groups(model: Model) -> list[Group]:
    """Return what is fitted: all sites of the trunk, and the encoder's last ones, a control."""
    middle = trunk(model)
    found = [Group(middle, tuple(s for s in model.sites() if Site.parse(s).stack == middle.name))]
    encoder = model.stacks.get("enc")
    if encoder is not None and encoder is not middle and encoder.patches:
        last = [site for site in encoder.sites(2) if site.block == encoder.blocks - 1]
        sublayer = encoder.sublayers[-1][-1]
        found.append(Group(encoder, tuple(str(s) for s in last if s.sublayer == sublayer)))
    return found


def scenes_for(model: Model, features: int = 0) -> int:
    """Return how many scenes give 20 patches for each unknown of a row, or 64 if that is more.

    The width is that of the trunk; a control on a wider encoder has fewer patches an unknown.
    """
    unknowns = trunk(model).width + features + 1
    rows, columns = patch_grid(*model.config.image_size, model.config.patch)
    return max(LEAST_SCENES, ceil(PATCHES_PER_UNKNOWN * unknowns / (rows * columns)))


@dataclass(frozen=True)
class Recipe:
    """What decides a fit, beside the model and the scenes.

    Attributes:
        targets: What to fit to. One pass serves all targets, on the same patches.
        features: How many random features; none for plain ridge regression.
        seed: Of the random features.
        random_seed: The seed of the model's weights, where it is a control with random ones.
    """

    targets: tuple[Target, ...] = (TRUTH, OWN)
    features: int = 0
    seed: int = 0
    random_seed: int | None = None


def fit_banks(
    model: Model,
    chosen: FitScenes,
    recipe: Recipe,
    report: Callable[[float], None] = lambda share: None,
) -> list[RidgeBank]:
    """Return a bank for each stack of `groups` and each target.

    A control with random weights has no control of its own, and neither have random features.


    Args:
        model: The backbone, which stays as it is.
        chosen: What to fit on, and what to choose the regularisers on.
        recipe: The targets and the kind of the banks.
        report: Called with the share of the work that is done.

    Raises:
        Prob3rError: The truth is a target and is not known, or known of too few patches.
    """
    fitting = _Fitting(model, recipe)
    scenes, held_out = chosen.scenes, chosen.held_out
    total, digest = len(held_out) + len(scenes), hashlib.blake2b(digest_size=8)
    seen = views = 0
    for source, held in ((held_out, True), (scenes, False)):
        with reusing_views(source, model):
            for batch in batches(source, len(source), fitting.batch):
                for image in batch.images:
                    digest.update(image.cpu().numpy().tobytes())
                fitting.take(batch.to(fitting.device), held)
                seen, views = seen + len(batch), batch.count
                report((1 - _SOLVING) * seen / total)
    fit = Fit(
        target=OWN,
        data=chosen.name,
        scenes=len(scenes),
        held_out=len(held_out),
        views=views,
        sample=describe(scenes),
        digest=digest.hexdigest(),
        seed=chosen.seed,
        precision="float32",
    )
    return fitting.banks(fit, lambda share: report(1 - _SOLVING * (1 - share)))


class _Held(NamedTuple):
    """Some patches of a held-out batch at one site, and what they are to say."""

    streams: Float[Tensor, "n d"]
    targets: ViewTargets


class _Fitting:
    """The normal equations of all sites, while scenes stream by."""

    def __init__(self, model: Model, recipe: Recipe):
        self.model, self.recipe, self.groups = model, recipe, groups(model)
        if recipe.features or recipe.random_seed is not None:
            del self.groups[1:]
        self.device = next(model.parameters()).device
        patch = model.config.patch
        self.columns = Columns(recipe.targets, patch**2)
        self.empty = [
            RidgeBank(g.sites, g.stack.width, patch, "", recipe.features, recipe.seed)
            for g in self.groups
        ]
        for bank in self.empty:
            bank.to(self.device).draw_features()
        self.equations = {
            site: NormalEquations(bank.inputs_width, self.columns.width, self.device)
            for bank in self.empty
            for site in bank.sites
        }
        self.held: dict[str, list[_Held]] = {site: [] for site in self.equations}
        self.generator = torch.Generator().manual_seed(recipe.seed)
        rows, columns = patch_grid(*model.config.image_size, patch)
        width = sum(len(group.sites) * group.stack.width for group in self.groups)
        self.batch = min(_LARGEST_BATCH, max(1, _RECORDS // (4 * rows * columns * width)))

    def take(self, batch: Views, held: bool) -> None:
        """Run the model over a batch; add its patches to the equations, or keep some of them."""
        read = {
            site: group.read_by(site, batch.count) for group in self.groups for site in group.sites
        }
        run = trace(self.model, batch, [site for sites in read.values() for site in sites])
        assert run.output is not None
        targets = targets_of(batch, run.output, self.model.config.patch, self.columns)
        kept = [self._some(view.known) if held else view.known for view in targets]
        targets = [view.rows(rows) for view, rows in zip(targets, kept, strict=True)]
        for bank in self.empty:
            for site in bank.sites:
                for name in read[site]:
                    view = Site.parse(name).view - 1
                    streams = run[name].patches.flatten(0, 1)[kept[view]].float()
                    if held:
                        self.held[site].append(_Held(streams, targets[view]))
                    else:
                        self.equations[site].add(bank.inputs(streams), targets[view].raw)

    def banks(self, fit: Fit, report: Callable[[float], None]) -> list[RidgeBank]:
        """Return the solved banks; what each site's equations held is given back on the way."""
        backbone, done = fingerprint(self.model), 0
        total, solved = len(self.equations), list[RidgeBank]()
        for bank in self.empty:
            banks = {target: copy.deepcopy(bank) for target in self.columns.targets}
            chosen: dict[Target, list[tuple[float, float]]] = {t: [] for t in banks}
            for row, site in enumerate(bank.sites):
                for target, found in self._solve(site, banks, row).items():
                    chosen[target].append(found)
                done += 1
                report(done / total)
            for target, each in banks.items():
                ridges, errors = zip(*chosen[target], strict=True)
                each.backbone, each.random_seed = backbone, self.recipe.random_seed
                each.fit = replace(fit, target=target, ridges=ridges, errors=errors)
                solved.append(each)
        return solved

    def _some(self, known: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Return a mask of at most `HELD_PATCHES` of the known patches."""
        rows = known.nonzero()[:, 0].cpu()
        chosen = rows[torch.randperm(len(rows), generator=self.generator)[:HELD_PATCHES]]
        return torch.zeros_like(known).index_fill_(0, chosen.to(known.device), True)

    def _solve(
        self, site: str, banks: Mapping[Target, RidgeBank], row: int
    ) -> dict[Target, tuple[float, float]]:
        """Fill in the probes of a site; return the ridge of each target, and its held-out error."""
        equations, held = self.equations.pop(site), self.held.pop(site)
        bank = next(iter(banks.values()))
        if equations.rows <= bank.inputs_width or not held:
            raise Prob3rError(
                f"{equations.rows} patches are known in all their pixels, which is too few to fit "
                f"{bank.inputs_width} numbers an output; give more scenes, or fit to '{OWN}'."
            )
        solutions = equations.solve()
        del equations
        inputs = solutions.rotate(bank.inputs(torch.cat([each.streams for each in held])))
        found = {}
        for target, each in banks.items():
            columns = self.columns.points(target)
            true = torch.cat([h.targets.raw[:, columns] for h in held])
            units = torch.cat([h.targets.units[target] for h in held])
            points = solutions.of(columns)
            errors = [errors_of(points.predict(inputs, r), true, units).item() for r in GRID]
            best = min(range(len(GRID)), key=errors.__getitem__)
            found[target] = GRID[best], errors[best]
            weights, biases = zip(
                points.weight(GRID[best]),
                solutions.of(self.columns.confidence).weight(GRID[best]),
                strict=True,
            )
            each.weight.data[row] = torch.cat(weights, -1)
            each.bias.data[row] = torch.cat(biases, -1)
        return found
