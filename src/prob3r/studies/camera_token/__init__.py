"""N4, camera token: does it carry the pose that the model states, and do the points need it?

The model must have a special token `camera` in its trunk and must predict (state) cameras. The
camera tokens of all views that have one are cut, in the trunk:

- `mask`: isolated. No token attends to them, and they attend to none, in any block.
- `zero`, `mean`, `resample`: replaced at every residual site of the trunk (`TokenAblation`) by
  zero, by their mean over a sample of the scenes, or by those of another scene of the batch.
- `swap`: replaced by those of another scene in one block only, for each block in turn. The later
  blocks compute with them. No rule uses this mode. The figure shows from which block on the stated
  pose is that of the other scene.

The controls are cut in the same way: the first register token, if there is one (`register`); as
many random patches (`count`); and random patches of the same attention mass (`mass`); see
`prob3r.studies.cuts.tokens`. Losses are those of `prob3r.studies.cuts.losses`. A cut *stands out*
if it costs more than each of the controls, all intervals of the differences above zero.

Rules, with 95 % bootstrap intervals over scenes. Each is applied in the modes `mask`, `zero`,
`mean` and `resample`; the verdict is that of all modes if they agree; else mixed.

- *The camera token carries the pose that the model states*: in one mode it is supported if the cut
  stands out in AUC@30 of the stated cameras and its loss is not negligible; not supported if its
  loss is negligible (the upper end is under 2 points of AUC@30), or if it costs less than a
  control, with an interval below zero; else mixed.
- *The points do not need it*: in one mode it is supported if the upper end of the loss (pointmap
  error) is under 5 %, or if the cut does not stand out in it; not supported if it stands out and
  the lower end is over 5 %; else mixed. If the first claim is not supported, this verdict is always
  mixed, because a cut that does not change the cameras cannot show it.
"""

import math
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from prob3r.geometry import relative_pose_errors
from prob3r.measures.scenes import scene_errors
from prob3r.measures.tokens import CHOSEN, COUNT, MASS
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.runs.edits import Edit, TokenMeans, token
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views
from prob3r.studies.camera_token.contrasts import CAMERA, REGISTER, as_words, standings
from prob3r.studies.camera_token.figures import TO_DONOR, TO_OWN, draw_swaps, draw_token_cuts
from prob3r.studies.cuts.effects import POINTMAP, effects_of
from prob3r.studies.cuts.losses import (
    CAMERAS_HARDLY,
    LOSS_WORDS,
    POINTS_HARDLY,
    STATED_AUC,
    over_modes,
)
from prob3r.studies.cuts.tokens import (
    MASK,
    MEAN,
    MEAN_SCENES,
    RESAMPLE,
    SWAP,
    ZERO,
    ChosenTokens,
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
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SWAPS = 12  # most blocks in which tokens are swapped, one block at a time

_CANNOT_TELL = "the same cuts do not break the stated cameras, so that the method cannot tell"


class CameraToken(Study[Views]):
    """N4: the camera token isolated, replaced and swapped, beside its controls."""

    name = "camera_token"
    title = "What the camera token carries"
    prepared_on = MEAN_SCENES
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
        """Compute the means of all tokens over a sample of the scenes."""
        self.means = means_of(tested.model, pairs, self.batch)

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        """Return the effect of every cut on every error, by `effects_of`."""
        assert self.means is not None  # `prepare` comes first
        return effects_of(tested.model, scenes, cuts(tested.model, scenes, self.means), _errors)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers for the stated cameras and for the points."""
        carries = _carries(table)
        return [carries, _points(table, carries.verdict == "supported")]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return figures of the cuts with their controls, and of the swaps block by block."""
        drawn = {"cuts": draw_token_cuts(table)}
        return drawn | ({"swaps": draw_swaps(table)} if (table["mode"] == SWAP).any() else {})


def cuts(model: Model, scenes: Views, means: TokenMeans) -> dict[Cut, list[Edit]]:
    """Return the edits of every cut, for a batch of scenes."""
    run = run_of(model, scenes)
    sources = Sources(means, donated_by(scenes, run))
    stack = trunk(model)
    every = patches_against(model, scenes, run, chosen_tokens(model, scenes, token(CAMERA)))
    tokens: dict[str, ChosenTokens] = {
        CAMERA: every[CHOSEN],
        COUNT: every[COUNT],
        MASS: every[MASS],
    }
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
    """Return whether a model predicts cameras, by a run on images of zeros."""
    image = torch.zeros(1, 3, *model.config.image_size, device=next(model.parameters()).device)
    with torch.no_grad():
        return model(*[image] * views).cameras is not None


def _errors(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
    """Return the errors of a run, and the angles between its cameras and those without edits.

    The angles are in degrees, to the cameras of the same scene and of the donor scene.
    """
    errors = scene_errors(output, views)
    assert output.cameras is not None  # `check` asks for them
    assert clean.cameras is not None
    said, own = output.cameras.cam_to_world, clean.cameras.cam_to_world
    donors = other_scenes(views).to(own.device)
    for name, poses in ((TO_DONOR, own[donors]), (TO_OWN, own)):
        errors[name] = relative_pose_errors(said, poses, folded=False).rotation.mean(1)
    errors[TO_DONOR] = errors[TO_DONOR].masked_fill(donors < 0, torch.nan)
    return errors


def _carries(table: pd.DataFrame) -> Finding:
    found = standings(table, STATED_AUC)
    verdicts = []
    for each in found.values():
        hardly = each.loss.high < CAMERAS_HARDLY
        verdicts.append(decide(each.out and not hardly, hardly or each.less))
    return Finding(
        "N4",
        "The camera token carries the pose that the model states",
        over_modes(verdicts),
        *found[MASK].loss,
        unit=f"{LOSS_WORDS[STATED_AUC]}, the camera tokens isolated",
        control=as_words(found),
        pairs=found[MASK].scenes,
    )


def _points(table: pd.DataFrame, can_tell: bool) -> Finding:
    found = standings(table, POINTMAP)
    verdicts = [
        decide(
            each.loss.high < POINTS_HARDLY or not each.out,
            each.out and each.loss.low > POINTS_HARDLY,
        )
        for each in found.values()
    ]
    return Finding(
        "N4",
        "The points do not need the camera token",
        over_modes(verdicts) if can_tell else "mixed",
        *found[MASK].loss,
        unit=f"{LOSS_WORDS[POINTMAP]}, the camera tokens isolated",
        control=as_words(found) + ("" if can_tell else f"; {_CANNOT_TELL}"),
        pairs=found[MASK].scenes,
    )
