"""Banks at once: from the cache, or fitted and put there."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import nn

from prob3r.errors import Prob3rError
from prob3r.models import Model, fingerprint, random
from prob3r.models.protocol import needs_pointmaps, predicts_pointmaps
from prob3r.probes.cache import find, keep
from prob3r.probes.fit import Recipe, fit_banks, scenes_for
from prob3r.probes.ridge import FEATURES, RidgeBank
from prob3r.probes.scenes import ROOMS, FitScenes, fit_scenes, full_name
from prob3r.probes.targets import OWN, TRUTH, Target
from prob3r.runs.precision import AUTO, choose, running_in

FITTED = ("ridge", "features", "encoder", "random")
"""What can be fitted at once: two kinds of probes, and two controls.

`encoder` reads the end of the encoder alone, `random` the like of the model with random weights.
"""

RANDOM_SEED = 0  # of the weights of the control

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Which banks are wanted.

    Attributes:
        target: `truth` or `own`; by default the truth where it is known.
        data: What to fit on; by default whatever a bank in the cache was fitted on, rooms first,
            and rooms if there is none.
        scenes: On how many, if they have to be fitted; see `scenes_for`.
        views: Of each of these scenes.
        seed: Of the sample, and of random features.
        precision: What the model runs in while they are fitted; see `prob3r.runs.precision`.
    """

    target: Target | None = None
    data: str | None = None
    scenes: int | None = None
    views: int = 2
    seed: int = 0
    precision: str = AUTO


@runtime_checkable
class Show(Protocol):
    """Shows what is being done."""

    def announce(self, line: str) -> None:
        """Say once what will be done, and how long it takes."""

    def progress(self, what: str, share: float) -> None:
        """Say what is being done, and what share of it is done."""


class Quiet:
    """Shows nothing."""

    def announce(self, line: str) -> None:
        """Say nothing."""

    def progress(self, what: str, share: float) -> None:
        """Say nothing."""


def provide(
    model: Model,
    kinds: Sequence[str],
    asked: Asked | None = None,
    name: str = "the model",
    show: Show | None = None,
    again: bool = False,
) -> dict[str, RidgeBank]:
    """Return banks of a model by kind, on its device; fit and keep those that the cache lacks.

    Args:
        model: The model.
        kinds: Which of `FITTED`.
        asked: What they are to be fitted to and on.
        name: What to call the model.
        show: Shows what is being done.
        again: Whether to fit those that the cache has, too.

    Raises:
        Prob3rError: A kind cannot be fitted, or see `fit_scenes` and `fit_banks`.
    """
    asked, show = asked or Asked(), show or Quiet()
    if unknown := [kind for kind in kinds if kind not in FITTED]:
        raise Prob3rError(f"'{unknown[0]}' cannot be fitted; give {', '.join(FITTED)}.")
    device, weights = next(model.parameters()).device, fingerprint(model)
    data = None if asked.data is None else full_name(asked.data)
    found: dict[str, RidgeBank] = {}
    for kind in kinds:
        if kind not in found:
            known = None if again else find(weights, kind, asked.target, data)
            if known is not None:
                found[kind] = known.load().to(device)
            else:
                found |= _fitted(model, kind, asked, _Shown(name, show), weights)
        fit = found[kind].fit
        assert fit is not None
        # Controls are fitted to the same, on the same.
        asked, data = replace(asked, target=fit.target, data=fit.data), fit.data
    return {kind: found[kind] for kind in kinds}


def _fitted(
    model: Model, kind: str, asked: Asked, shown: "_Shown", weights: str
) -> dict[str, RidgeBank]:
    """Fit and keep all banks that one pass gives; return those of the target by kind."""
    device = next(model.parameters()).device
    recipe = Recipe(
        features=FEATURES if kind == "features" else 0,
        seed=asked.seed,
        random_seed=RANDOM_SEED if kind == "random" else None,
    )
    if recipe.random_seed is not None:
        model = random(model, recipe.random_seed).to(device)
    count = asked.scenes or scenes_for(model, recipe)
    chosen = fit_scenes(asked.data or ROOMS, model, count, asked.views, asked.seed)
    if not chosen.truth:
        recipe = replace(recipe, targets=(OWN,))
    elif not predicts_pointmaps(model):
        recipe = replace(recipe, targets=(TRUTH,))
    if asked.target == OWN or not chosen.truth:
        needs_pointmaps(model, "fitting to the own output")
    if asked.target not in (None, *recipe.targets):
        raise Prob3rError(
            f"The truth of {chosen.title} is not known, which probes are to be fitted to; fit them "
            f"to '{OWN}', the model's own final output."
        )
    heavy = AUTO if isinstance(model, nn.Module) else "float32"
    precision = choose(heavy if asked.precision == AUTO else asked.precision, device, heavy=True)
    with running_in(precision, model):
        banks = fit_banks(model, chosen, recipe, shown.of(kind, chosen))
    for bank in banks:
        try:
            keep(bank, weights)
        except Prob3rError as error:  # without a cache it is only slower
            logger.warning("The probes are not kept for the next time: %s", error)
    target = asked.target or recipe.targets[0]
    return {b.kind: b for b in banks if b.fit is not None and b.fit.target == target}


class _Shown:
    """Says what is fitted when the first batch has shown how long it takes, then how far it is."""

    def __init__(self, name: str, show: Show):
        self.name, self.show = name, show

    def of(self, kind: str, chosen: FitScenes) -> Callable[[float], None]:
        """Return what is to be called with the share of the work that is done."""
        start, first = time.monotonic(), True
        what = f"Fitting {kind} probes"

        def report(share: float) -> None:
            nonlocal first
            if first:
                left = (time.monotonic() - start) * (1 - share) / share
                self.show.announce(
                    f"{what} of {self.name} on {len(chosen.scenes)} scenes of {chosen.title} "
                    f"takes about {duration(left)}; they are kept for the next time."
                )
            first = False
            self.show.progress(what, share)

        return report


def duration(seconds: float) -> str:
    """Return a time in words, such as `4 minutes`."""
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
