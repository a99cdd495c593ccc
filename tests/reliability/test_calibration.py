import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prob3r import cli
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, Prediction, fingerprint, load, save, shipped
from prob3r.probes import SiteReader, load_probes, save_probes
from prob3r.reliability.calibration import Calibration, bank_fingerprint
from prob3r.reliability.check import Check
from prob3r.reliability.matchers import LIGHTGLUE, SIFT
from prob3r.reliability.prediction import (
    auroc_interval,
    calibration_bins,
    cross_fitted,
    fit_logistic,
)
from prob3r.reliability.signals import SIGNALS, features, read_signals
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from tests.studies.test_reliability import bank, batch, made, model, rooms

__all__ = ["bank", "batch", "model", "rooms"]


@pytest.fixture(scope="module")
def calibration(model: DUSt3R, bank: SiteReader) -> Calibration:
    """A calibration of the small model, fitted on made-up signals."""
    table = made({"cycle": 2.0, "entropy": 1.0})
    values = {n: torch.tensor(table[table.metric == n].value.to_numpy()) for n in SIGNALS}
    rows = features(values)
    failed = torch.tensor(table[table.metric == "rotation_error"].value.to_numpy() > 15)
    stated = cross_fitted(rows, failed)
    known = auroc_interval(stated, failed)
    return Calibration(
        model="small",
        backbone=fingerprint(model),
        bank=bank_fingerprint(bank),
        data="rooms:validation",
        pairs=300,
        failed=int(failed.sum()),
        degrees=15.0,
        fit=fit_logistic(rows, failed),
        auroc=known,
        confidence_auroc=known,
        bins=calibration_bins(stated, failed),
    )


def test_a_calibration_is_read_as_it_was_written(
    calibration: Calibration, model: DUSt3R, bank: SiteReader, batch: Pair, tmp_path: Path
) -> None:
    calibration.save(tmp_path / "c.json")
    again = Calibration.read(tmp_path / "c.json")
    one, other = (c.judge(model, batch[0], bank) for c in (calibration, again))
    assert json.dumps(one.to_json()) == json.dumps(other.to_json())
    content = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)
    assert content["backbone"] == fingerprint(model)
    assert (content["data"], content["pairs"], content["degrees"]) == ("rooms:validation", 300, 15)
    again.save(tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text()) == content


def test_a_file_of_the_first_version_is_read(calibration: Calibration, tmp_path: Path) -> None:
    """Files from before the independent check name neither a version nor a matcher."""
    calibration.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content.pop("version") == 2
    assert content.pop("matcher") is None
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Calibration.read(tmp_path / "old.json")
    assert old.matcher is None
    assert old.signals == tuple(SIGNALS)
    assert torch.equal(old.fit.weights, calibration.fit.weights)
    content["version"] = 3
    (tmp_path / "new.json").write_text(json.dumps(content))
    with pytest.raises(Prob3rError, match="holds no calibration of this version's signals"):
        Calibration.read(tmp_path / "new.json")


@pytest.fixture(scope="module")
def with_check(model: DUSt3R, bank: SiteReader, rooms: Rooms) -> Calibration:
    """A calibration that reads an independent check, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prob3r.reliability.calibration.read_signals", half_wrong)
        patch.setattr("prob3r.reliability.calibration.check_pairs", half_checked)
        return Calibration.of(
            model, bank, rooms, 20, model_name="small", data="rooms:test", matcher=SIFT
        )


def half_checked(pairs: list[Pair], output: Prediction, matcher: str) -> list[Check]:
    """Checks that see odd pairs turned by about 90 degrees, and even ones by about 1 degree."""
    numbers = [int(pair.names[0].split("/")[-1]) for pair in pairs]
    return [
        Check(2, matcher, 50, 20 + n, 40, 1.0, 1.0, (90.0 if n % 2 else 1.0) + n / 40, 5.0, False)
        for n in numbers
    ]


def test_a_calibration_with_a_check_is_read_as_it_was_written(
    with_check: Calibration, tmp_path: Path
) -> None:
    assert with_check.signals == (*SIGNALS, "check_turn", "check_inliers")
    assert with_check.auroc.value == 1
    with_check.save(tmp_path / "c.json")
    again = Calibration.read(tmp_path / "c.json")
    assert again.matcher == SIFT
    assert torch.equal(again.fit.weights, with_check.fit.weights)
    content = json.loads((tmp_path / "c.json").read_text())
    content["matcher"] = "eyes"
    (tmp_path / "d.json").write_text(json.dumps(content))
    with pytest.raises(Prob3rError, match="holds no calibration of this version's signals"):
        Calibration.read(tmp_path / "d.json")


def test_a_check_speaks_in_the_judgement(
    with_check: Calibration, model: DUSt3R, bank: SiteReader, batch: Pair
) -> None:
    same, turned = (
        Check(2, SIFT, 50, 20, 40, 1.0, 1.0, degrees, 5.0, False) for degrees in (1.0, 90.0)
    )
    low, high = (with_check.judge(model, batch[0], bank, check=c) for c in (same, turned))
    assert low.probability < high.probability
    readings = {reading.signal: reading.value for reading in high.readings}
    assert (readings["check_turn"], readings["check_inliers"]) == (90, 21)


def test_a_check_of_another_matcher_or_of_known_cameras_is_made_anew(
    with_check: Calibration, model: DUSt3R, bank: SiteReader, batch: Pair
) -> None:
    """The small model sees 32 pixels, in which SIFT finds no pose."""
    other = Check(2, LIGHTGLUE, 50, 20, 40, 1.0, 1.0, 90.0, 5.0, False)
    known = replace(other, matcher=SIFT, intrinsics_known=True)
    for check in (other, known, None):
        judged = with_check.judge(model, batch[0], bank, check=check)
        readings = {reading.signal: reading.value for reading in judged.readings}
        assert (readings["check_turn"], readings["check_inliers"]) == (15, 1)


def test_a_judgement_adds_up(
    calibration: Calibration, model: DUSt3R, bank: SiteReader, batch: Pair
) -> None:
    judged = calibration.judge(model, batch[0], bank)
    log_odds = calibration.fit.bias.item() + sum(r.log_odds for r in judged.readings)
    assert judged.probability == pytest.approx(1 / (1 + np.exp(-log_odds)))
    assert judged.held_out.low <= judged.probability <= judged.held_out.high
    found, _ = read_signals(model, batch[0], bank)
    assert [r.value for r in judged.readings] == [found[name].item() for name in SIGNALS]


def test_a_calibration_of_another_model_or_bank_is_refused(
    calibration: Calibration, model: DUSt3R, bank: SiteReader, batch: Pair
) -> None:
    with pytest.raises(Prob3rError, match=r"^This calibration was made for the model another,"):
        replace(calibration, backbone="another").judge(model, batch[0], bank)
    with pytest.raises(Prob3rError, match=r"^This calibration was made for the probe bank other,"):
        replace(calibration, bank="other").judge(model, batch[0], bank)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"signals": {"x": 1}}'])
def test_a_file_that_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(Prob3rError, match=r"c\.json holds no calibration"):
        Calibration.read(tmp_path / "c.json")
    with pytest.raises(Prob3rError, match=r"none\.json cannot be read"):
        Calibration.read(tmp_path / "none.json")


def test_too_few_failures_are_refused(model: DUSt3R, bank: SiteReader, rooms: Rooms) -> None:
    with pytest.raises(Prob3rError, match=r"of 4 pairs of rooms:test have a rotation error"):
        Calibration.of(model, bank, rooms, 4, model_name="small", data="rooms:test")


def test_nothing_is_shipped_for_a_model_of_one_s_own(model: DUSt3R, bank: SiteReader) -> None:
    assert Calibration.shipped("some/file.safetensors", model, bank) is None
    assert Calibration.shipped("mini", model, bank) is None


def half_wrong(
    model: DUSt3R, pair: Pair, bank: SiteReader
) -> tuple[dict[str, torch.Tensor], Prediction]:
    """Signals that tell all, of outputs that are right for even pairs and turned for odd ones."""
    wrong = torch.tensor([int(name.split("/")[-1]) % 2 for name in pair.names])
    turn = torch.eye(3).repeat(len(pair), 1, 1)
    turn[wrong == 1, 0, 0] = turn[wrong == 1, 2, 2] = -1.0
    first, second = pair.points
    output = Prediction((first, torch.einsum("bij,bhwj->bhwi", turn, second)), (first[..., 0],) * 2)
    doubts = wrong + 0.1 * torch.rand(len(pair))
    return {name: (signal.doubt * doubts).exp() for name, signal in SIGNALS.items()}, output


def test_pairs_with_truth_make_a_calibration(
    model: DUSt3R, bank: SiteReader, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.reliability.calibration.read_signals", half_wrong)
    told: list[tuple[int, int]] = []
    found = Calibration.of(
        model,
        bank,
        rooms,
        20,
        model_name="small",
        data="rooms:test",
        batch=10,
        report=lambda done, total: told.append((done, total)),
    )
    assert told == [(10, 20), (20, 20)]
    assert (found.pairs, found.failed, found.degrees) == (20, 10, 15.0)
    assert (found.auroc.value, found.confidence_auroc.value) == (1, 1)
    assert sum(b.failed for b in found.bins) == 10
    found.check(model, bank)


def test_the_command_writes_a_calibration_or_says_why_not(
    model: DUSt3R,
    bank: SiteReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    save(model, tmp_path / "small.safetensors")
    save_probes(bank, tmp_path / "bank.safetensors")
    monkeypatch.chdir(tmp_path)
    files = ["--model", "small.safetensors", "--probes", "bank.safetensors"]
    options = [*files, "--pairs", "20", "--data", "rooms:test", "--out", "new/c.json"]
    monkeypatch.setattr("sys.argv", ["prob3r", "train", "reliability", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()  # random weights are right about nothing
    assert ended.value.code == 1
    assert "a calibration needs at least 5" in capfd.readouterr().err
    monkeypatch.setattr("prob3r.reliability.calibration.read_signals", half_wrong)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "10 of 20 pairs are off by more than 15 degrees" in capfd.readouterr().out
    network, probes = load("small.safetensors"), load_probes("bank.safetensors")
    Calibration.read(tmp_path / "new/c.json").check(network, probes)


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_fits_its_model(name: str) -> None:
    path = Path(cli.__file__).parents[1] / "weights" / name / "reliability.json"
    if path.exists():
        found = Calibration.shipped(name, load(name), load_probes(name))
        assert found is not None, f"{path} is of other weights or probes; train it again"
        assert found.data == "rooms:validation"
