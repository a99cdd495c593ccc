"""N8, registers: does zero ablation overstate what register tokens carry?

All register tokens of the trunk are replaced at every residual site of the trunk
(`TokenAblation`), in every view, in four modes side by side: by zero; by their mean over a sample
of the scenes; by noise with that mean and the deviation over the same scenes; and by those of
another scene of the batch (`resample`). The control replaces as many random patches of each view in
the same modes. It shows what replacing any tokens does. Losses are those of
`prob3r.studies.cuts.losses`. The cameras are those that the model states, or else those that its
points tell.

The rule, with 95 % bootstrap intervals over scenes, for the cameras (AUC@30) and for the points
(pointmap error), each on its own:

- *Zero ablation of registers overstates*: supported if zero costs more than each of the three
  replacements, all intervals of the differences above zero; not supported if zero itself costs
  hardly anything (the upper end is under 2 points of AUC@30, or 5 % of pointmap error), or if it
  costs less than a replacement, the interval below zero; else mixed.
"""

from typing import TYPE_CHECKING

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import as_text, wide
from prob3r.measures.tokens import CHOSEN, COUNT
from prob3r.models import Model
from prob3r.runs.edits import TOKEN_MODES, Edit, TokenMeans, token
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views
from prob3r.studies.cuts.effects import POINTMAP, effects_of
from prob3r.studies.cuts.losses import (
    CAMERAS_HARDLY,
    LOSS_WORDS,
    POINTS_HARDLY,
    camera_auc,
    draw_losses,
    loss_interval,
    loss_metrics,
    with_losses,
)
from prob3r.studies.cuts.tokens import (
    MEAN_SCENES,
    ZERO,
    Cut,
    Sources,
    chosen_tokens,
    donated_by,
    means_of,
    patches_against,
    replaced,
    run_of,
    special_tokens,
)
from prob3r.studies.framework.figures import COLOURS
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REGISTERS, PATCHES = "register tokens", "as many random patches"
PATTERN = "register*"

_COLOURS = {REGISTERS: COLOURS["hard"], PATCHES: COLOURS["control"]}


class Registers(Study[Views]):
    """N8: register tokens replaced in every mode, compared with as many random patches."""

    name = "registers"
    title = "Register tokens replaced in every mode"
    prepared_on = MEAN_SCENES
    place = 18
    views = 4
    batch = 2
    most = 128
    output = True
    attention = BETWEEN
    means: TokenMeans | None = None

    def check(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if the model lacks what the study needs."""
        super().check(tested)
        special = special_tokens(tested.model, self.views)
        if not any(name.startswith("register") for name in special):
            raise LackingError(
                f"The study '{self.name}' needs register tokens in the blocks where the views "
                f"meet, and {tested.name} has {', '.join(special) or 'no special tokens'} there."
            )

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Views]) -> None:
        """Compute the means of all tokens over a sample of the scenes."""
        self.means = means_of(tested.model, pairs, self.batch)

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        """Return the effect of every replacement on every error, by `effects_of`."""
        assert self.means is not None  # `prepare` comes first
        return effects_of(tested.model, scenes, replacements(tested.model, scenes, self.means))

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers for the cameras and for the points."""
        return [
            _overstates(table, camera_auc(table), CAMERAS_HARDLY, "the cameras"),
            _overstates(table, POINTMAP, POINTS_HARDLY, "the points"),
        ]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the losses in every mode, of the registers and of the patches."""
        losses = {metric: _bars(table, metric) for metric in loss_metrics(table)}
        return {"modes": draw_losses(losses, _COLOURS, "what the tokens are replaced by")}


def replacements(model: Model, scenes: Views, means: TokenMeans) -> dict[Cut, list[Edit]]:
    """Return the edits of every replacement of a batch of scenes."""
    run = run_of(model, scenes)
    sources = Sources(means, donated_by(scenes, run))
    every = patches_against(model, scenes, run, chosen_tokens(model, scenes, token(PATTERN)))
    edits = {
        Cut(name, mode): replaced(model, every[cut], mode, sources, scenes)
        for name, cut in ((REGISTERS, CHOSEN), (PATCHES, COUNT))
        for mode in TOKEN_MODES
    }
    return {cut: made for cut, made in edits.items() if made}


def by_mode(table: pd.DataFrame, metric: str, tokens: str) -> dict[str, Float[Tensor, " n"]]:
    """Return the loss of every scene by each mode in which some tokens are replaced."""
    rows = with_losses(table[(table.metric == metric) & (table.tokens == tokens)])
    modes, losses = wide(rows, "mode")
    return dict(zip(modes, losses.unbind(1), strict=True))


def _bars(table: pd.DataFrame, metric: str) -> dict[str, dict[str, Interval]]:
    """Return the losses of a metric by mode and by the replaced tokens."""
    found = {tokens: by_mode(table, metric, tokens) for tokens in _COLOURS}
    return {
        mode: {name: loss_interval(of[mode], metric) for name, of in found.items()}
        for mode in TOKEN_MODES
        if mode in found[REGISTERS]
    }


def _overstates(table: pd.DataFrame, metric: str, hardly: float, what: str) -> Finding:
    found = {tokens: by_mode(table, metric, tokens) for tokens in (REGISTERS, PATCHES)}
    costs = {
        tokens: {mode: loss_interval(losses, metric) for mode, losses in of.items()}
        for tokens, of in found.items()
    }
    own = found[REGISTERS]
    gaps = {
        mode: loss_interval(own[ZERO] - losses, metric)
        for mode, losses in own.items()
        if mode != ZERO
    }
    zero = costs[REGISTERS][ZERO]
    verdict = decide(
        all(gap.low > 0 for gap in gaps.values()) and zero.high >= hardly,
        zero.high < hardly or any(gap.high < 0 for gap in gaps.values()),
    )
    replaced_by = "; ".join(
        f"{mode} {as_text(costs[REGISTERS][mode], 3)}, zero costs {as_text(gap, 3)} more"
        for mode, gap in gaps.items()
    )
    patches = ", ".join(f"{mode} {as_text(each, 3)}" for mode, each in costs[PATCHES].items())
    return Finding(
        "N8",
        f"Zero ablation of registers overstates what they carry for {what}",
        verdict,
        *zero,
        unit=f"{LOSS_WORDS[metric]}, registers zeroed",
        control=f"{replaced_by}; as many random patches: {patches}",
        pairs=len(own[ZERO]),
    )
