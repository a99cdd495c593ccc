"""Provide banks of a model: load them from the cache, or fit them and keep them there."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import nn

from prob3r.errors import Prob3rError
from prob3r.models import Model, fingerprint, random
from prob3r.models.protocol import needs_pointmaps, predicts_pointmaps
from prob3r.probes.cache import find, keep
from prob3r.probes.fit import FitCost, fit_together
from prob3r.probes.ridge import FEATURES, RidgeBank
from prob3r.probes.scenes import ROOMS, FitScenes, fit_scenes, full_name
from prob3r.probes.settings import FitSettings, scenes_for
from prob3r.probes.targets import OWN, PAIR, POINTMAP, TRUTH, WHOSE, Whose, target_named
from prob3r.runs.precision import AUTO, choose, running_in

FITTED = ("ridge", "features", "encoder", "random")
"""The kinds of banks that are fitted in closed form: two kinds of probes, and two controls.

`encoder` reads the end of the encoder alone. `random` reads the same architecture with random
weights.
"""

RANDOM_SEED = 0  # the seed of the random weights of the control

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Which banks are wanted.

    Attributes:
        whose: `truth` or `own`. The default is the truth if it is known.
        data: What to fit on. By default a bank in the cache is taken, whatever it was fitted on,
            with rooms preferred. If there is none, rooms are used.
        scenes: The number of scenes, if the banks have to be fitted. The default is `scenes_for`.
        views: Number of views of each of these scenes.
        seed: Seed of the sample, and of random features.
        precision: The model's precision during the fit; see `prob3r.runs.precision`.
        target: Name of the target, one of `prob3r.probes.targets.TARGETS`.
        token: The special token to read. Empty means the mean of the patches. Only targets of pairs
            can be decoded from a token.
    """

    whose: Whose | None = None
    data: str | None = None
    scenes: int | None = None
    views: int = 2
    seed: int = 0
    precision: str = AUTO
    target: str = POINTMAP.name
    token: str = ""


@runtime_checkable
class Show(Protocol):
    """Shows a person what is being done."""

    def announce(self, line: str) -> None:
        """Show a line that says what will be done, and what it costs. It is called once."""

    def progress(self, what: str, share: float) -> None:
        """Show what is being done, and what share of it is done."""


class Quiet:
    """Shows nothing."""

    def announce(self, line: str) -> None:
        """Show nothing."""

    def progress(self, what: str, share: float) -> None:
        """Show nothing."""


def provide(
    model: Model,
    kinds: Sequence[str],
    asked: Asked | None = None,
    name: str = "the model",
    show: Show | None = None,
    again: bool = False,
) -> dict[str, RidgeBank]:
    """Return banks of a model by kind, on its device. Fit and keep the banks that the cache lacks.

    Args:
        model: The model.
        kinds: Some of `FITTED`.
        asked: What the banks are fitted to and on.
        name: The name of the model in messages.
        show: Shows what is being done.
        again: Whether to fit banks again that are in the cache.

    Raises:
        Prob3rError: A kind cannot be fitted. Also the errors of `fit_scenes` and `fit_together`.
    """
    asked = asked or Asked()
    return provide_each(model, kinds, [asked.target], asked, name, show, again)[asked.target]


def provide_each(
    model: Model,
    kinds: Sequence[str],
    targets: Sequence[str],
    asked: Asked | None = None,
    name: str = "the model",
    show: Show | None = None,
    again: bool = False,
) -> dict[str, dict[str, RidgeBank]]:
    """Return banks by target and kind; see `provide`. Targets share passes of the model.

    Args:
        model: The model.
        kinds: Some of `FITTED`.
        targets: Names of targets.
        asked: What the banks are fitted to and on. Its `target` is not used.
        name: The name of the model in messages.
        show: Shows what is being done.
        again: Whether to fit banks again that are in the cache.

    Raises:
        Prob3rError: See `provide`.
    """
    asked, show = asked or Asked(), show or Quiet()
    if unknown := [kind for kind in kinds if kind not in FITTED]:
        raise Prob3rError(f"'{unknown[0]}' cannot be fitted; give {', '.join(FITTED)}.")
    device, weights = next(model.parameters()).device, fingerprint(model)
    data = None if asked.data is None else full_name(asked.data)
    wanted = {target: replace(asked, target=target, data=data) for target in targets}
    found: dict[str, dict[str, RidgeBank]] = {target: {} for target in targets}
    for kind in kinds:
        missing = []
        for target, each in wanted.items():
            if kind in found[target]:
                continue
            about = each.whose, each.data, target, each.token
            known = None if again else find(weights, kind, *about)
            if known is None:
                missing.append(target)
            else:
                found[target][kind] = known.load().to(device)
        for together in _of_one_pass(missing):
            these = [wanted[target] for target in together]
            for target, banks in _fitted(model, kind, these, _Shown(name, show), weights).items():
                found[target] |= banks
        for target, banks in found.items():
            fit = banks[kind].fit
            assert fit is not None
            # Controls are fitted to the same goals, on the same data.
            wanted[target] = replace(wanted[target], whose=fit.whose, data=fit.data)
    return {target: {kind: banks[kind] for kind in kinds} for target, banks in found.items()}


def scenes_to_fit(model: Model, targets: Sequence[str], asked: Asked | None = None) -> int:
    """Return on how many scenes a model runs if ridge probes of some targets are fitted.

    Args:
        model: The model.
        targets: Names of targets. Those that share a pass of the model count once.
        asked: What the probes are fitted on. Its `target` is not used.
    """
    asked = asked or Asked()
    count = 0
    for together in _of_one_pass(targets):
        settings = _settings("ridge", replace(asked, target=together[0]))
        count += (asked.scenes or scenes_for(model, settings)) + settings.held_out
    return count


def _of_one_pass(targets: Sequence[str]) -> list[list[str]]:
    """Return targets in groups. The targets of a group are fitted on the same number of scenes."""
    groups: dict[bool, list[str]] = {}
    for target in targets:
        groups.setdefault(target_named(target).level == PAIR, []).append(target)
    return list(groups.values())


def _fitted(
    model: Model, kind: str, wanted: Sequence[Asked], shown: "_Shown", weights: str
) -> dict[str, dict[str, RidgeBank]]:
    """Fit and keep all banks of one pass. Return those that were asked for, by target and kind."""
    device, first = next(model.parameters()).device, wanted[0]
    every = [_settings(kind, asked) for asked in wanted]
    if every[0].random_seed is not None:
        model = random(model, every[0].random_seed).to(device)
    count = first.scenes or scenes_for(model, every[0])
    chosen = fit_scenes(
        first.data or ROOMS, model, count, first.views, first.seed, every[0].held_out
    )
    every = [
        _checked(model, settings, asked, chosen)
        for settings, asked in zip(every, wanted, strict=True)
    ]
    heavy = AUTO if isinstance(model, nn.Module) else "float32"
    precision = choose(heavy if first.precision == AUTO else first.precision, device, heavy=True)
    with running_in(precision, model, keep_rounded=False):  # the sums need the memory
        of = f" of {len(wanted)} targets" if len(wanted) > 1 else ""
        what = f"Fitting {kind} probes{of}"
        begin = shown.cost(what, chosen)
        fitted = fit_together(model, chosen, every, shown.of(what), begin)
    found: dict[str, dict[str, RidgeBank]] = {}
    for asked, settings, banks in zip(wanted, every, fitted, strict=True):
        for bank in banks:
            try:
                keep(bank, weights)
            except Prob3rError as error:  # without a cache it is only slower
                logger.warning("The probes are not kept for later runs: %s", error)
        whose = asked.whose or settings.whose[0]
        found[asked.target] = {b.kind: b for b in banks if b.fit and b.fit.whose == whose}
    return found


def _settings(kind: str, asked: Asked) -> FitSettings:
    """Return the settings of a kind of probes. Raise Prob3rError if they do not fit its target."""
    target = target_named(asked.target)
    if kind == "features" and target.level == PAIR:
        raise Prob3rError(
            f"The {target.name} is decoded from one mean for each view, which only ridge probes "
            "can do; give 'ridge'."
        )
    if asked.token and target.level != PAIR:
        raise Prob3rError(
            f"The {target.name} is decoded from patches, but a token was given; only targets of "
            "pairs are decoded from a token."
        )
    if asked.whose == OWN and not target.own:
        raise Prob3rError(
            f"Probes of the {target.name} are fitted to the truth alone; give '{TRUTH}'."
        )
    return FitSettings(
        whose=WHOSE if target.own else (TRUTH,),
        features=FEATURES if kind == "features" else 0,
        seed=asked.seed,
        random_seed=RANDOM_SEED if kind == "random" else None,
        target=target,
        token=asked.token,
    )


def _checked(model: Model, settings: FitSettings, asked: Asked, chosen: FitScenes) -> FitSettings:
    """Return the settings with only those `whose` that are known for the scenes and the model.

    Raises:
        Prob3rError: What was asked for is not among them.
    """
    if settings.target.own and not chosen.truth:
        settings = replace(settings, whose=(OWN,))
    elif not predicts_pointmaps(model):
        settings = replace(settings, whose=(TRUTH,))
    if asked.whose == OWN or settings.whose == (OWN,):
        needs_pointmaps(model, "fitting to the own output")
    if asked.whose not in (None, *settings.whose):
        raise Prob3rError(
            f"The truth of {chosen.title} is not known, so probes cannot be fitted to it; fit them "
            f"to '{OWN}', the model's own final output."
        )
    return settings


class _Shown:
    """Shows what will be fitted and what it costs, and then the progress."""

    def __init__(self, name: str, show: Show):
        self.name, self.show = name, show

    def cost(self, what: str, chosen: FitScenes) -> Callable[[FitCost], None]:
        """Return the function that announces what is fitted, on what, and its cost."""

        def begin(cost: FitCost) -> None:
            self.show.announce(
                f"{what} of {self.name} on {cost.scenes} scenes of {chosen.title} takes about "
                f"{duration(cost.seconds)} and {cost.bytes / 2**30:.1f} GiB of memory; the probes "
                "are kept for later runs."
            )

        return begin

    def of(self, what: str) -> Callable[[float], None]:
        """Return the function that shows the share of the work that is done."""
        return lambda share: self.show.progress(what, share)


def duration(seconds: float) -> str:
    """Return a time in words, such as `4 minutes`."""
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
