"""Fitting banks in closed form: one pass of the backbone over some scenes, no learning rate.

Every site has normal equations of its own, which grow while scenes stream by. Further scenes are
held out: they choose each site's regulariser. A probe of view 2 is fitted on all views but the
first, which models of many views treat alike.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models import Model, fingerprint
from prob3r.models.protocol import Stack, trunk
from prob3r.models.sites import ATTENTION, Site
from prob3r.probes.equations import GRAM_SHARE, GRID, NormalEquations
from prob3r.probes.ridge import Fit, RidgeBank
from prob3r.probes.scenes import FitScenes
from prob3r.probes.targets import OWN, TRUTH, Columns, Target, ViewTargets, errors_of, targets_of
from prob3r.runs.encoded import reusing_views
from prob3r.runs.precision import running_precision
from prob3r.runs.trace import trace
from prob3r.scenes.source import batches, describe
from prob3r.scenes.views import Views

PATCHES_PER_UNKNOWN = 20
LEAST_SCENES = 64  # patches of one scene are alike, however many it has
HELD_PATCHES = 64  # of each view of a held-out scene
MOST_COST = 0.17  # of the normal equations, as a share of the products of the blocks
LEAST_SHARE = 0.25  # of the patches; a model so small that this costs more is cheap all the same

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


def patch_share(model: Model, recipe: Recipe) -> float:
    """Return the share of the patches whose products are summed, 1 where that costs little enough.

    Products are counted: those of the normal equations take at most `MOST_COST` of those of the
    blocks, unless that leaves less than `LEAST_SHARE`. Small models are thinned the most, whose
    outputs are wide beside their streams.
    """
    outputs = Columns(recipe.targets, model.config.patch**2).width
    forward = sum(
        (4 if sublayer in ATTENTION else 8) * stack.width**2
        for stack in model.stacks.values()
        if stack.patches
        for sublayers in stack.sublayers
        for sublayer in sublayers
    )
    widths = [stack.width + recipe.features for stack, sites in groups(model) for _ in sites[::2]]
    equations = sum(w * (w * GRAM_SHARE + outputs) for w in widths)
    return min(1.0, max(LEAST_SHARE, MOST_COST * forward / equations))


def scenes_for(model: Model, recipe: Recipe) -> int:
    """Return how many scenes give 20 patches for each unknown of a row, or 64 if that is more.

    The width is that of the trunk; a control on a wider encoder has fewer patches an unknown.
    """
    unknowns = trunk(model).width + recipe.features + 1
    rows, columns = patch_grid(*model.config.image_size, model.config.patch)
    patches = rows * columns * patch_share(model, recipe)
    return max(LEAST_SCENES, ceil(PATCHES_PER_UNKNOWN * unknowns / patches))


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
    fitting = Fitting(model, chosen, recipe)
    total, seen = len(chosen.held_out) + len(chosen.scenes), 0
    for source, held in ((chosen.held_out, True), (chosen.scenes, False)):
        with reusing_views(source, model):
            for batch in batches(source, len(source), fitting.batch):
                fitting.take(batch.to(fitting.device), held)
                seen += len(batch)
                report((1 - _SOLVING) * seen / total)
    return fitting.solve(lambda share: report(1 - _SOLVING * (1 - share)))


class _Held(NamedTuple):
    """Some patches of a held-out batch at one site, and what they are to say."""

    streams: Float[Tensor, "n d"]
    targets: ViewTargets


class Fitting:
    """The normal equations of all sites, while scenes stream by.

    Args:
        model: The backbone.
        chosen: The scenes.
        recipe: The targets and the kind of the banks.

    Attributes:
        batch: How many scenes to take at a time, so that their streams take little memory.
    """

    def __init__(self, model: Model, chosen: FitScenes, recipe: Recipe):
        self.model, self.chosen, self.recipe, self.groups = model, chosen, recipe, groups(model)
        if recipe.features or recipe.random_seed is not None:
            del self.groups[1:]
        self.device = next(model.parameters()).device
        self.patch = model.config.patch
        self.columns = Columns(recipe.targets, self.patch**2)
        # All banks have the same random features, and read the same inputs as these.
        self.readers = [self._bank(group) for group in self.groups]
        self.equations = {
            site: NormalEquations(reader.inputs_width, self.columns.width, self.device)
            for reader in self.readers
            for site in reader.sites
        }
        self.held: dict[str, list[_Held]] = {site: [] for site in self.equations}
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.share = patch_share(model, recipe)
        self.views, self.digest = 0, hashlib.blake2b(digest_size=8)
        rows, columns = patch_grid(*model.config.image_size, self.patch)
        width = sum(len(group.sites) * group.stack.width for group in self.groups)
        self.batch = min(_LARGEST_BATCH, max(1, _RECORDS // (4 * rows * columns * width)))

    def _bank(self, group: Group) -> RidgeBank:
        """Return a bank that has everything but its weights."""
        seed, features = self.recipe.seed, self.recipe.features
        bank = RidgeBank(group.sites, group.stack.width, self.patch, "", features, seed)
        bank.random_seed = self.recipe.random_seed
        bank.draw_features()
        return bank.to(self.device)

    def take(self, batch: Views, held: bool) -> None:
        """Run the model over a batch; add its patches to the equations, or keep some of them."""
        self.views = batch.count
        for image in batch.images:
            self.digest.update(image.cpu().numpy().tobytes())
        read = {
            site: group.read_by(site, batch.count) for group in self.groups for site in group.sites
        }
        run = trace(self.model, batch, [site for sites in read.values() for site in sites])
        assert run.output is not None
        targets = targets_of(batch, run.output, self.patch, self.columns)
        rows, columns = patch_grid(*batch.views[0].size, self.patch)
        share = HELD_PATCHES / (rows * columns) if held else self.share
        kept = [self._some(view.known, share) for view in targets]
        targets = [view.rows(rows) for view, rows in zip(targets, kept, strict=True)]
        for reader in self.readers:
            for site in reader.sites:
                for name in read[site]:
                    view = Site.parse(name).view - 1
                    streams = run[name].patches.flatten(0, 1)[kept[view]].float()
                    if held:
                        self.held[site].append(_Held(streams, targets[view]))
                    else:
                        self.equations[site].add(reader.inputs(streams), targets[view].raw)

    def solve(self, report: Callable[[float], None] = lambda share: None) -> list[RidgeBank]:
        """Return the banks, by stack and target; every site's equations are given back on the way.

        Args:
            report: Called with the share of the sites that are solved.

        Raises:
            Prob3rError: There are too few patches.
        """
        backbone, total, solved = fingerprint(self.model), len(self.equations), list[RidgeBank]()
        for group in self.groups:
            banks = {target: self._bank(group) for target in self.columns.targets}
            chosen: dict[Target, list[tuple[float, float]]] = {target: [] for target in banks}
            for row, site in enumerate(group.sites):
                for target, found in self._solve(site, banks, row).items():
                    chosen[target].append(found)
                report(1 - len(self.equations) / total)
            for target, bank in banks.items():
                bank.backbone, bank.fit = backbone, self._fit(target, chosen[target])
            solved += banks.values()
        return solved

    def _fit(self, target: Target, found: list[tuple[float, float]]) -> Fit:
        """Return what a bank was fitted on, given each site's ridge and held-out error."""
        ridges, errors = zip(*found, strict=True)
        return Fit(
            target=target,
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
        )

    def _some(self, known: Bool[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
        """Return a mask of a random share of the known patches."""
        if share >= 1:
            return known
        drawn = torch.rand(len(known), generator=self.generator) < share
        return known & drawn.to(known.device)

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
