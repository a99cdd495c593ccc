"""Losses of cuts: how much worse the cameras and the points become.

A loss is above zero if a cut makes the result worse. The loss of an AUC is its decrease, from 0 to
1; over scenes its mean is taken, as for the AUC of a data set. The loss of an error is the natural
logarithm of its ratio to the error without the cut (0.05 is a rise of 5 %); over scenes its median
is taken.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, median
from prob3r.measures.scenes import AUC_DEGREES, POINTS, STATED
from prob3r.measures.statistics import mean, mean_interval, median_interval
from prob3r.studies.cuts.effects import POINTMAP, camera_metric
from prob3r.studies.framework.figures import PAGE, figure, grouped_bars
from prob3r.studies.framework.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUC = f"auc@{AUC_DEGREES}"
STATED_AUC, POINTS_AUC = f"{STATED} {AUC}", f"{POINTS} {AUC}"
SHAPE = "shape_error"

LOSS_LABELS = {
    STATED_AUC: f"stated cameras:\nloss of AUC@{AUC_DEGREES}°",
    POINTS_AUC: f"cameras by the points:\nloss of AUC@{AUC_DEGREES}°",
    POINTMAP: "pointmap error:\nlog of its ratio",
    SHAPE: "shape error:\nlog of its ratio",
}
"""Labels of axes; a loss compares a run with a cut to the run without it."""

LOSS_WORDS = {metric: label.replace(":\n", ", ") for metric, label in LOSS_LABELS.items()}
"""The same in one line, as the unit of a finding."""

CAMERAS_HARDLY, POINTS_HARDLY = 0.02, 0.05
"""Smaller losses count as negligible: 2 points of AUC@30, and a rise of an error by about 5 %."""

_LEAST = 1e-6  # in the unit of the error; smaller errors are set to this value


def with_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `effects_of` with the loss in the column `value`."""
    change, clean = table.value.to_numpy(float), table.clean.to_numpy(float)
    ratio = np.log((clean + change).clip(_LEAST) / clean.clip(_LEAST))
    return table.assign(value=np.where(table.metric.str.endswith(AUC), -change, ratio))


def camera_auc(table: pd.DataFrame) -> str:
    """Return the metric for the AUC of the stated cameras, or else of cameras by the points."""
    return camera_metric(table, AUC)


def loss_metrics(table: pd.DataFrame) -> list[str]:
    """Return the metrics of `LOSS_LABELS` that a table has."""
    found = set(table.metric)
    return [metric for metric in LOSS_LABELS if metric in found]


def loss_interval(losses: Float[Tensor, " n"], metric: str) -> Interval:
    """Return the loss over scenes, with its 95 % bootstrap interval."""
    return mean_interval(losses) if metric.endswith(AUC) else median_interval(losses)


def loss_curve(
    losses: Float[Tensor, "n s"], metric: str
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return the loss over scenes of every column, and the lower and upper end of its interval."""
    found = torch.tensor([loss_interval(column, metric) for column in losses.unbind(1)])
    value, low, high = found.unbind(1)
    return value, low, high


def total_loss(losses: Float[Tensor, "n s"], metric: str) -> Float[Tensor, " s"]:
    """Return the loss over scenes of every column."""
    return mean(losses.T) if metric.endswith(AUC) else median(losses.T)


def over_modes(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the common verdict of all modes of an ablation; `mixed` if they differ."""
    return verdicts[0] if len(set(verdicts)) == 1 else "mixed"


def draw_losses(
    losses: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    colours: Mapping[str, str],
    groups: str,
) -> "Figure":
    """Return bars of losses, one panel for each metric.

    Args:
        losses: Losses by metric, by group of bars, and by bar.
        colours: Colours of the bars by name, in the order of the bars in a group.
        groups: Label of the axis of groups.
    """
    with figure((len(losses) + 1) // 2, 2, PAGE, 1.9) as (drawn, axes):
        for axis, (metric, found) in zip(axes, losses.items(), strict=False):
            grouped_bars(axis, found, colours)
            axis.set_xlabel(groups)
            axis.set_ylabel(LOSS_LABELS[metric])
        for axis in axes[len(losses) :]:
            axis.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4)
    return drawn
