"""The examples' models, which join through adapters, are explained and evaluated like any other."""

import pytest

from prob3r.models import Adapter, fingerprint
from prob3r.report import explain
from prob3r.rooms import Rooms
from prob3r.studies.evaluation import evaluate
from prob3r.training.probes import bank_for
from tests.checks import every
from tests.models.joint import example


@pytest.fixture(params=["05_bring_your_own_model", "06_many_views"])
def model(request: pytest.FixtureRequest) -> Adapter:
    made = example(request.param).model()
    assert isinstance(made, Adapter)
    return made


def test_it_is_explained_and_evaluated(model: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    rooms = Rooms("test", size=(64, 64), compile=False)
    _, bank = bank_for(model, "linear")
    bank.backbone = fingerprint(model)
    explanation = explain(model, rooms[2], bank, model_name="theirs")
    assert explanation.happened
    table = evaluate(model, rooms, 2, [bank])
    assert every(table[(table.source == "model") & (table.stratum == "all")].value >= 0)
