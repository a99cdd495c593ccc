"""N4, camera token: does it carry the pose that the model states, and do the points need it?

The model must have a special token `camera` in its trunk and must state cameras. The camera tokens
of all views that have one are cut, in the trunk:

- `mask`: isolated. No token attends to them, and they attend to none, in any block.
- `zero`, `mean`, `resample`: replaced at every residual site of the trunk (`TokenAblation`) by
  zero, by their mean over a sample of the scenes, or by those of another scene of the batch.
- `swap`: put in from another scene in one block alone, block by block. The blocks after it compute
  with them. This has no rule. The figure shows from which block on the stated pose is that of the
  other scene.

The controls are cut in the same way: the first register token, if there is one (`register`); as
many random patches (`count`); and random patches of the same attention mass (`mass`); see
`prob3r.studies.token_cuts`. Losses are those of `prob3r.studies.losses`. A cut *stands out* if it
costs more than each of the controls, all intervals of the differences above zero.

Rules, with 95 % bootstrap intervals over scenes, over the modes `mask`, `zero`, `mean` and
`resample`: the verdict of all of them if they agree; else mixed.

- *The camera token carries the pose that the model states*: in one mode it is supported if the cut
  stands out in AUC@30 of the stated cameras, by a loss that is not hardly one; not supported if its
  loss is hardly one (the upper end is under 2 points of AUC@30), or if it costs less than a
  control, the interval below zero; else mixed.
- *The points do not need it*: in one mode it is supported if the upper end of the loss (pointmap
  error) is under 5 %, or if the cut does not stand out in it; not supported if it stands out and
  the lower end is over 5 %; else mixed. It is mixed at most if the first is not supported: a cut
  that does nothing to the cameras cannot tell.
"""

import math
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, relative_pose_errors
from prob3r.measures.scenes import scene_errors
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.measures.tokens import CHOSEN, COUNT, MASS
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.runs.edits import Edit, TokenMeans, token
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views
from prob3r.studies.effects import POINTMAP, effects_of
from prob3r.studies.figures import COLOURS, PAGE, band, figure, grouped_bars
from prob3r.studies.losses import (
    CAMERAS_HARDLY,
    LOSS_LABELS,
    LOSS_WORDS,
    POINTS_HARDLY,
    STATED_AUC,
    loss_interval,
    loss_metrics,
    over_modes,
    with_losses,
)
from prob3r.studies.study import BETWEEN, LackingError, ModelUnderTest, Study
from prob3r.studies.token_cuts import (
    MASK,
    MEAN,
    RESAMPLE,
    SWAP,
    ZERO,
    Chosen,
    Cut,
    Sources,
    chosen_tokens,
    donated_by,
    isolated,
    means_of,
    patches_against,
    replaced,
    run_of,
    special_tokens,
    swapped,
)
from prob3r.studies.verdict import Finding, Verdict, decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAMERA, REGISTER = "camera", "register"
MODES = (MASK, ZERO, MEAN, RESAMPLE)
SWAPS = 12  # blocks in which tokens are swapped at most

TO_DONOR, TO_OWN = "rotation to the other scene", "rotation to its own"
"""Between the cameras that a run states and those of the runs without edits, in degrees."""

_COLOURS = {
    CAMERA: COLOURS["hard"],
    REGISTER: COLOURS["self_attn"],
    COUNT: COLOURS["control"],
    MASS: COLOURS["easy"],
}
_NAMES = {
    CAMERA: "camera token",
    REGISTER: "a register token",
    COUNT: "a random patch",
    MASS: "random patches, as much attention",
}
_CANNOT_TELL = "the same cuts do not break the stated cameras, so that the method cannot tell"


class CameraToken(Study[Views]):
    """N4: the camera token isolated, replaced and swapped, beside its controls."""

    name = "camera_token"
    title = "What the camera token carries"
    place = 14
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
        if CAMERA not in special:
            raise LackingError(
                f"The study '{self.name}' needs a camera token in the blocks where the views meet, "
                f"and {tested.name} has {', '.join(special) or 'no special tokens'} there."
            )
        if not _states_cameras(tested.model, self.views):
            raise LackingError(
                f"The study '{self.name}' needs a model that states cameras, and {tested.name} "
                "states none."
            )

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Views]) -> None:
        """Take the means of all tokens over a sample of the scenes."""
        self.means = means_of(tested.model, pairs, self.batch)

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        """Return what every cut does to every error."""
        assert self.means is not None  # `prepare` comes first
        return effects_of(tested.model, scenes, cuts(tested.model, scenes, self.means), _errors)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers for the stated cameras and for the points."""
        carries = _carries(table)
        return [carries, _points(table, carries.verdict == "supported")]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the cuts beside their controls, and the swaps block by block."""
        metrics, colours = loss_metrics(table), {_NAMES[k]: c for k, c in _COLOURS.items()}
        with figure(2, 2, PAGE, 1.9) as (drawn, axes):
            for axis, metric in zip(axes, metrics, strict=True):
                grouped_bars(axis, _bars(table, metric), colours)
                axis.set_xlabel("how the tokens are cut")
                axis.set_ylabel(LOSS_LABELS[metric])
            handles, labels = axes[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=4)
        found = {"cuts": drawn}
        if (table["mode"] == SWAP).any():
            found["swaps"] = _swaps(table)
        return found


def cuts(model: Model, scenes: Views, means: TokenMeans) -> dict[Cut, list[Edit]]:
    """Return the edits of every cut of a batch of scenes."""
    run = run_of(model, scenes)
    sources = Sources(means, donated_by(scenes, run))
    stack = trunk(model)
    every = patches_against(model, scenes, run, chosen_tokens(model, scenes, token(CAMERA)))
    tokens: dict[str, Chosen] = {CAMERA: every[CHOSEN], COUNT: every[COUNT], MASS: every[MASS]}
    registers = [n for n in special_tokens(model, scenes.count) if n.startswith(REGISTER)]
    if registers:
        tokens[REGISTER] = chosen_tokens(model, scenes, token(registers[0]))
    edits: dict[Cut, list[Edit]] = {}
    for name, chosen in tokens.items():
        edits[Cut(name, MASK)] = isolated(model, chosen)
        for mode in (ZERO, MEAN, RESAMPLE):
            edits[Cut(name, mode)] = replaced(model, chosen, mode, sources, scenes)
        for block in range(0, stack.blocks, math.ceil(stack.blocks / SWAPS)):
            edits[Cut(name, SWAP, block)] = swapped(model, chosen, block, sources.donated)
    return {cut: made for cut, made in edits.items() if made}


def _states_cameras(model: Model, views: int) -> bool:
    """Return whether a model states cameras; it runs over empty photographs."""
    image = torch.zeros(1, 3, *model.config.image_size, device=next(model.parameters()).device)
    with torch.no_grad():
        return model(*[image] * views).cameras is not None


def _errors(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
    """Return the errors of a run, and how far its cameras are from those of runs without edits."""
    errors = scene_errors(output, views)
    assert output.cameras is not None  # `check` asks for them
    assert clean.cameras is not None
    said, own = output.cameras.cam_to_world, clean.cameras.cam_to_world
    donors = other_scenes(views).to(own.device)
    for name, poses in ((TO_DONOR, own[donors]), (TO_OWN, own)):
        errors[name] = relative_pose_errors(said, poses, folded=False).rotation.mean(1)
    errors[TO_DONOR] = errors[TO_DONOR].masked_fill(donors < 0, torch.nan)
    return errors


def by_tokens(table: pd.DataFrame, metric: str, mode: str) -> dict[str, Float[Tensor, " n"]]:
    """Return every scene's loss by the cut of each kind of token, in one mode."""
    rows = with_losses(table[(table.metric == metric) & (table["mode"] == mode)])
    if rows.empty:
        return {}
    names, losses = wide(rows, "tokens")
    return dict(zip(names, losses.unbind(1), strict=True))


def _bars(table: pd.DataFrame, metric: str) -> dict[str, dict[str, Interval]]:
    """Return the losses of a metric by mode, and by the tokens' name in figures."""
    found = {mode: by_tokens(table, metric, mode) for mode in MODES}
    return {
        mode: {_NAMES[name]: loss_interval(losses, metric) for name, losses in of.items()}
        for mode, of in found.items()
        if of
    }


class _Standing:
    """How a cut of the camera token stands beside its controls, in one mode."""

    def __init__(self, table: pd.DataFrame, metric: str, mode: str):
        losses = by_tokens(table, metric, mode)
        own = losses.pop(CAMERA)
        self.loss, self.scenes = loss_interval(own, metric), len(own)
        self.over = {name: loss_interval(own - control, metric) for name, control in losses.items()}

    @property
    def out(self) -> bool:
        """Whether it costs more than each control."""
        return all(gap.low > 0 for gap in self.over.values())

    @property
    def less(self) -> bool:
        """Whether it costs less than a control."""
        return any(gap.high < 0 for gap in self.over.values())

    def __str__(self) -> str:
        gaps = ", ".join(f"over {name} {as_text(gap, 3)}" for name, gap in self.over.items())
        return f"{as_text(self.loss, 3)} ({gaps})"


def _standings(table: pd.DataFrame, metric: str) -> dict[str, _Standing]:
    modes = [mode for mode in MODES if (table["mode"] == mode).any()]
    return {mode: _Standing(table, metric, mode) for mode in modes}


def _told(found: dict[str, _Standing]) -> str:
    return "; ".join(f"{mode} {standing}" for mode, standing in found.items())


def _carries(table: pd.DataFrame) -> Finding:
    found = _standings(table, STATED_AUC)
    verdicts = [
        decide(
            each.out and each.loss.high >= CAMERAS_HARDLY,
            each.loss.high < CAMERAS_HARDLY or each.less,
        )
        for each in found.values()
    ]
    return Finding(
        "N4",
        "The camera token carries the pose that the model states",
        over_modes(verdicts),
        *found[MASK].loss,
        unit=f"{LOSS_WORDS[STATED_AUC]}, the camera tokens isolated",
        control=_told(found),
        pairs=found[MASK].scenes,
    )


def _points(table: pd.DataFrame, can_tell: bool) -> Finding:
    found = _standings(table, POINTMAP)
    verdicts = [
        decide(
            each.loss.high < POINTS_HARDLY or not each.out,
            each.out and each.loss.low > POINTS_HARDLY,
        )
        for each in found.values()
    ]
    verdict: Verdict = over_modes(verdicts)
    return Finding(
        "N4",
        "The points do not need the camera token",
        verdict if can_tell else "mixed",
        *found[MASK].loss,
        unit=f"{LOSS_WORDS[POINTMAP]}, the camera tokens isolated",
        control=_told(found)
        + (
            ""
            if can_tell
            else "; the same cuts do not break the stated cameras, so that they cannot tell"
        ),
        pairs=found[MASK].scenes,
    )


def _swaps(table: pd.DataFrame) -> "Figure":
    """Return where a swapped token takes the stated pose along, and what the points lose."""
    labels = {
        TO_DONOR: "stated rotation to that of\nthe other scene (degrees)",
        TO_OWN: "stated rotation to that\nwithout the swap (degrees)",
        POINTMAP: LOSS_LABELS[POINTMAP],
    }
    rows = table[table["mode"] == SWAP].sort_values("block")
    with figure(1, len(labels), PAGE, 2.3) as (drawn, axes):
        for axis, (metric, label) in zip(axes, labels.items(), strict=True):
            of = rows[rows.metric == metric]
            of = with_losses(of) if metric == POINTMAP else of.assign(value=of.value + of.clean)
            for name, colour in _COLOURS.items():
                blocks, values = wide(of[of.tokens == name], "block")
                if len(blocks):
                    band(axis, blocks, *medians(values), colour, _NAMES[name])
            if metric == TO_DONOR:
                apart = of.drop_duplicates("pair").clean
                axis.axhline(
                    median_interval(torch.tensor(apart.to_numpy())).value,
                    color=COLOURS["all"],
                    lw=0.6,
                    ls=":",
                )
            axis.set_xlabel("block of the swap")
            axis.set_ylabel(label)
        handles, names = axes[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=4)
    return drawn
