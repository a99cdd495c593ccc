"""The chance that a view is a stranger: its signals by hand, its file, its sentences."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prob3r import cli
from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.measures.views import ViewRelations
from prob3r.models import VGGT, DUSt3R, fingerprint, load, random, save, shipped, shipped_file
from prob3r.reliability.prediction import calibration_bins, cross_fitted, fit_logistic
from prob3r.reliability.strangers import (
    SIGNALS,
    Belonging,
    StrangerCalibration,
    belongings,
    relations_of,
    signals,
)
from prob3r.report import explain
from prob3r.report.strangers import likeliest, stranger_sentences
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation
from tests.models.examples import VGGT_CONFIG


def relations(attention: list[float], similarity: list[float], fit: list[float]) -> ViewRelations:
    """Views that every other view attends to and resembles by so much."""
    count = len(fit)
    nothing = [[0.0] * count] * count
    rows = [[attention[j] for j in range(count)] for _ in range(count)]
    alike = [[1.0 if i == j else similarity[i] for j in range(count)] for i in range(count)]
    return ViewRelations([0, 1], [nothing, rows], nothing, nothing, fit, alike)


ODD = relations([0.3, 0.2, 0.05, 0.2], [0.9, 0.8, 0.5, 0.8], [0.9, 0.9, math.nan, 0.7])


@pytest.fixture(scope="module")
def model() -> VGGT:
    return random(VGGT_CONFIG, seed=1)


@pytest.fixture(scope="module")
def calibration(model: VGGT) -> StrangerCalibration:
    draw = torch.Generator().manual_seed(0)
    outcome = torch.rand(240, generator=draw) < 0.2
    rows = torch.randn(240, 3, generator=draw, dtype=torch.double) / 3 + outcome[:, None]
    return StrangerCalibration(
        model="small",
        backbone=fingerprint(model),
        data="rooms:validation",
        scenes=80,
        views=4,
        strangers=int(outcome.sum()),
        fit=fit_logistic(rows, outcome),
        auroc=Interval(0.97, 0.95, 0.99),
        bins=calibration_bins(cross_fitted(rows, outcome), outcome),
    )


def test_signals_are_doubts_in_the_last_block() -> None:
    found = signals(ODD)
    assert found.shape == (4, len(SIGNALS))
    assert found[0].isnan().all()
    # View 3: a quarter of the attention, a cosine lower by 0.3, and a fit of 0 for an unknown one.
    assert found[2].tolist() == pytest.approx([math.log(4), 0.3, 0.8])
    others = [math.log(0.2 * 0.05) / 2 - math.log(0.2), 0.65 - 0.8, (0 + 0.7) / 2 - 0.9]
    assert found[1].tolist() == pytest.approx(others)


def test_without_a_calibration_there_are_scores_and_no_probability() -> None:
    found = belongings(ODD)
    assert [b.view for b in found] == [2, 3, 4]
    assert all(b.probability is None for b in found)
    assert likeliest(found).view == 3
    assert found[1].attention == pytest.approx(0.25)
    assert (found[1].similarity, found[1].usual_similarity) == pytest.approx((0.5, 0.8))
    (said,) = stranger_sentences(found, None, "four photographs")
    assert "View 3 gets the least attention" in said.text
    assert "not calibrated for this run" in said.text
    assert said.tone == "plain"
    two = relations([0.5, 0.5], [0.5, 0.5], [0.9, 0.9])
    assert belongings(two) == []
    assert stranger_sentences([], None, "two") == []


def test_the_stranger_is_named_with_how_sure_that_is(calibration: StrangerCalibration) -> None:
    found = belongings(ODD, calibration)
    chances = {b.view: b.probability or 0 for b in found}
    assert max(chances, key=lambda view: chances[view]) == 3
    assert chances[3] > 0.5 > max(chances[2], chances[4])
    assert found[1].beyond == bool(
        (signals(ODD)[2] > calibration.fit.high).any()
        or (signals(ODD)[2] < calibration.fit.low).any()
    )
    first, *rest = stranger_sentences(found, calibration, "four photographs")
    assert first.tone == "warning"
    assert first.text.startswith(
        f"View 3 is of another scene with a probability of {100 * chances[3]:.0f} %"
    )
    assert rest[0].text.startswith("In the last block view 3 gets 0.25 times the attention")
    assert "It shares no surface with them." in rest[0].text
    text = " ".join(sentence.text for sentence in rest)
    assert "80 scenes of 4 views of rooms:validation" in text
    assert "take the probability as a hint" in text
    same = " ".join(s.text for s in stranger_sentences(found, calibration, "rooms/test/3"))
    assert "as a hint" not in same


def test_views_that_belong_are_said_to_belong(calibration: StrangerCalibration) -> None:
    even = relations([0.25] * 4, [0.8] * 4, [0.9] * 4)
    first = stranger_sentences(belongings(even, calibration), calibration, "rooms/test/1")[0]
    assert first.text.startswith("No view stands out as one of another scene")
    assert first.tone == "good"


def test_a_view_in_between_may_be_a_stranger(calibration: StrangerCalibration) -> None:
    found = [replace(b, probability=0.3) for b in belongings(ODD, calibration)]
    first = stranger_sentences(found, calibration, "rooms/test/1")[0]
    assert first.text.startswith("View 2 may be of another scene, with a probability of 30 %")
    assert first.tone == "plain"


def test_more_doubt_is_never_less_likely(calibration: StrangerCalibration) -> None:
    about = Belonging(2, 1.0, 0.5, 0.5, 0.5)
    rows = torch.zeros(3, dtype=torch.double), torch.tensor([0.2, 0.3, 0.1]).double()
    low, high = (calibration.judge(about, row).probability or 0 for row in rows)
    assert 0 < low < high < 1


def test_it_is_read_as_it_was_written(calibration: StrangerCalibration, tmp_path: Path) -> None:
    calibration.save(tmp_path / "s.json")
    again = StrangerCalibration.read(tmp_path / "s.json")
    assert belongings(ODD, again) == belongings(ODD, calibration)
    assert (again.auroc, again.scenes, again.views) == (calibration.auroc, 80, 4)
    for text in ("", "[]", "{}", '{"version": 1, "signals": {}}'):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(Prob3rError, match=r"s\.json holds no calibration.*train strangers"):
            StrangerCalibration.read(tmp_path / "s.json")


def test_another_model_is_refused(calibration: StrangerCalibration, model: VGGT) -> None:
    calibration.check(model)
    with pytest.raises(Prob3rError, match="calibration of strangers was made for the model"):
        calibration.check(random(VGGT_CONFIG, seed=2))
    assert StrangerCalibration.shipped("mini", model) is None


def test_what_is_shipped_fits_its_model() -> None:
    names = [name for name in shipped() if shipped_file(name, "strangers.json")]
    assert names == ["mini-vggt"]
    found = StrangerCalibration.shipped("mini-vggt", load("mini-vggt"))
    assert found is not None
    assert found.data == "rooms:validation"


def test_scenes_make_a_calibration(model: VGGT, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    told: list[tuple[int, int]] = []
    found = StrangerCalibration.of(
        model,
        rooms,
        20,
        model_name="small",
        data="rooms:test",
        batch=10,
        report=lambda *at: told.append(at),
    )
    assert told[-1] == (20, 20)
    assert (found.scenes, found.views, found.strangers) == (20, 3, 10)
    assert sum(b.pairs for b in found.bins) == 40
    assert sum(b.failed for b in found.bins) == 10
    with pytest.raises(Prob3rError, match="2 of 8 views of rooms:test are strangers"):
        StrangerCalibration.of(model, rooms, 4, model_name="small", data="rooms:test")
    pairs = Rooms("test", (28, 28), compile=False)
    with pytest.raises(Prob3rError, match="have 2 views; to tell a stranger takes 3"):
        StrangerCalibration.of(model, pairs, 4, model_name="small", data="rooms:test")


def test_explain_says_it_of_a_clean_run_alone(
    model: VGGT, calibration: StrangerCalibration
) -> None:
    room = Rooms("test", (28, 28), compile=False, views=4)[0]
    found = explain(model, room, None, model_name="small", strangers=calibration)
    relations = found.measurements.relations
    assert list(found.strangers) == belongings(relations, calibration)
    assert any("of another scene" in sentence.text for sentence in found.trust)
    assert len(found.to_json()["strangers"]) == 3
    torch.testing.assert_close(
        signals(relations), signals(relations_of(model, room)), equal_nan=True, rtol=1e-3, atol=1e-3
    )
    edits = [HeadAblation("dec*.0.global_attn")]
    edited = explain(model, room, None, model_name="small", strangers=calibration, edits=edits)
    assert all(view.probability is None for view in edited.strangers)
    with pytest.raises(Prob3rError, match="made for the model"):
        explain(model, room, None, model_name="s", strangers=replace(calibration, backbone="x"))


def test_the_command_writes_it_or_says_why_not(
    model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    save(model, tmp_path / "small.safetensors")
    monkeypatch.chdir(tmp_path)
    options = ["--scenes", "12", "--views", "3", "--data", "rooms:test", "--out", "new/s.json"]
    arguments = ["prob3r", "train", "strangers", *options]
    monkeypatch.setattr("sys.argv", [*arguments, "--model", "mini"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "mini takes at most 2 views" in capfd.readouterr().err
    monkeypatch.setattr("sys.argv", [*arguments, "--model", "small.safetensors"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "6 of 24 views are strangers" in capfd.readouterr().out
    network = load("small.safetensors")
    assert not isinstance(network, DUSt3R)
    StrangerCalibration.read(tmp_path / "new/s.json").check(network)
