import math

import pandas as pd
import pytest
import torch

from prob3r.studies.cuts.effects import POINTMAP
from prob3r.studies.cuts.losses import (
    POINTS_AUC,
    STATED_AUC,
    camera_auc,
    loss_interval,
    loss_metrics,
    over_modes,
    with_losses,
)


def test_a_loss_is_what_goes_of_an_auc_and_the_log_of_a_ratio_of_errors() -> None:
    table = pd.DataFrame(
        {
            "metric": [POINTS_AUC, POINTMAP, "points rotation_error"],
            "clean": [0.8, 0.5, 0.0],
            "value": [-0.2, 0.5, math.nan],
        }
    )
    losses = with_losses(table).value.tolist()
    assert losses == pytest.approx([0.2, math.log(2), math.nan], nan_ok=True)
    assert loss_metrics(table) == [POINTS_AUC, POINTMAP]
    assert camera_auc(table) == POINTS_AUC
    assert camera_auc(table.assign(metric=STATED_AUC)) == STATED_AUC


def test_an_auc_is_summed_up_by_the_mean_and_an_error_by_the_median() -> None:
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, torch.nan])
    assert loss_interval(values, STATED_AUC).value == pytest.approx(0.25)
    assert loss_interval(values, POINTMAP).value == 0


def test_a_verdict_needs_every_mode() -> None:
    assert over_modes(["supported", "supported"]) == "supported"
    assert over_modes(["not supported", "not supported"]) == "not supported"
    assert over_modes(["not supported", "mixed"]) == "mixed"
    assert over_modes(["supported", "not supported"]) == "mixed"
