"""What explain says of how likely a wrong outcome is."""

import json
import re
from dataclasses import replace
from html import unescape
from math import nan

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.models import fingerprint, random
from prob3r.probes import ProbeBank
from prob3r.reliability.calibration import Calibration, bank_fingerprint
from prob3r.reliability.judgement import Judgement, Reading
from prob3r.reliability.prediction import Bin, calibration_bins, fit_logistic
from prob3r.reliability.signals import SIGNALS
from prob3r.report import Explanation, explain
from prob3r.report.page import page
from prob3r.report.reliability import reliability
from prob3r.runs.edits import Skip
from prob3r.scenes import Pair
from tests.report.conftest import PAIRS
from tests.report.stand_ins import CONFIG, random_probes

MODEL = random(CONFIG, seed=5)


@pytest.fixture(scope="module")
def bank() -> ProbeBank:
    return random_probes(MODEL)


@pytest.fixture(scope="module")
def calibration(bank: ProbeBank) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(100, len(SIGNALS), generator=generator).double()
    failed = rows.sum(1) + torch.randn(100, generator=generator) > 1
    fit = fit_logistic(rows, failed)
    return Calibration(
        model="m",
        backbone=fingerprint(MODEL),
        bank=bank_fingerprint(bank),
        data="rooms:validation",
        pairs=100,
        failed=int(failed.sum()),
        degrees=15.0,
        fit=fit,
        auroc=Interval(0.83, 0.8, 0.86),
        confidence_auroc=Interval(0.75, 0.7, 0.8),
        bins=calibration_bins(fit.probability(rows), failed),
    )


@pytest.fixture(scope="module")
def judged(calibration: Calibration, bank: ProbeBank) -> Explanation:
    pair = Pair.from_folder(PAIRS / "books", MODEL)
    return explain(MODEL, pair, bank, model_name="m", calibration=calibration)


def judgement(probability: float = 0.34, **changes: object) -> Judgement:
    found = Judgement(
        probability=probability,
        degrees=15.0,
        readings=[
            Reading("late_turn", 61.0, 28.0, 1.1, False),
            Reading("confidence2", 1.2, 1.44, 0.3, False),
            Reading("cycle", 0.3, 0.14, -0.5, False),
            Reading("entropy", 0.75, 0.76, 0.01, False),
        ],
        held_out=Bin(0.3, 0.4, 42, 16, 0.35),
        data="rooms:validation",
        pairs=512,
        failed=95,
        auroc=Interval(0.82, 0.77, 0.87),
        confidence_auroc=Interval(0.75, 0.7, 0.81),
        calibration_error=0.04,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def told(found: Judgement, pair: str = "rooms/test/1") -> str:
    return " ".join(sentence.text for sentence in reliability(found, pair))


def test_the_chance_its_signs_and_its_worth_are_said() -> None:
    text = told(judgement())
    assert "off by more than 15° with a probability of 34 %" in text
    assert "19 % were" in text
    assert "What raises it: late turns of view 2 (61°, usually 28°) and confidence in" in text
    assert "; what lowers it: late attention's cycle consistency (30 %, usually 14 %)." in text
    assert "entropy" not in text
    assert "42 were given from 30 to 40 %, and 16 of these (38 %)" in text
    assert "photograph" not in text


@pytest.mark.parametrize(
    ("probability", "tone"), [(0.02, "good"), (0.34, "plain"), (0.5, "warning"), (0.97, "warning")]
)
def test_a_likely_failure_is_a_warning(probability: float, tone: str) -> None:
    assert reliability(judgement(probability), "rooms/test/1")[0].tone == tone


def test_photographs_are_told_that_rooms_were_calibrated_on() -> None:
    assert "calibrated on rendered rooms, not on photographs" in told(judgement(), "books")
    other = judgement(data="tum:desk")
    assert "calibrated on tum:desk: of pairs unlike those" in told(other, "books")


def test_what_no_pair_of_the_calibration_had_is_said() -> None:
    far = [Reading("entropy", 0.99, 0.76, 0.0, True), Reading("cycle", 0.99, 0.1, 0.0, True)]
    text = told(judgement(readings=far))
    assert "such a value of late attention's entropy and late attention's cycle consistency" in text
    assert "raises" not in text


def test_an_empty_bin_is_said_to_be_empty() -> None:
    text = told(judgement(0.95, held_out=Bin(0.9, 1.0, 0, 0, nan)))
    assert "Of 512 held-out pairs of rooms:validation, none was given from 90 to 100 %" in text
    assert "nan" not in text


def test_an_explanation_says_it_first_and_holds_the_numbers(judged: Explanation) -> None:
    assert "view 2's rotation is off by more than 15°" in judged.trust[0].text
    assert any("not on photographs" in sentence.text for sentence in judged.trust)
    content = json.loads(json.dumps(judged.to_json(), allow_nan=False))["reliability"]
    assert 0 <= content["probability"] <= 1
    assert [r["signal"] for r in content["readings"]] == list(SIGNALS)
    assert set(content["held_out"]) == {"low", "high", "pairs", "failed", "stated"}
    assert judged.trust[0].text in unescape(re.sub("&#x27;", "'", page(judged)))


def test_a_judged_pair_is_run_once_and_judged_as_by_itself(
    calibration: Calibration, bank: ProbeBank, judged: Explanation
) -> None:
    runs: list[int] = []
    hook = MODEL.register_forward_pre_hook(lambda *_: runs.append(1))
    pair = Pair.from_folder(PAIRS / "books", MODEL)
    explain(MODEL, pair, bank, model_name="m")
    without = len(runs)
    again = explain(MODEL, pair, bank, model_name="m", calibration=calibration)
    hook.remove()
    assert without > 0
    assert len(runs) == 2 * without
    alone = calibration.judge(MODEL, pair, bank)
    assert again.reliability is not None
    assert again.reliability.probability == pytest.approx(alone.probability)


def test_without_a_calibration_nothing_is_said(guessing: Explanation) -> None:
    assert guessing.reliability is None
    assert guessing.to_json()["reliability"] is None
    assert "probability" not in " ".join(sentence.text for sentence in guessing.trust)


def test_of_an_edited_run_nothing_is_said(calibration: Calibration, bank: ProbeBank) -> None:
    pair = Pair.from_folder(PAIRS / "books", MODEL)
    cut = [Skip("dec2.1.cross_attn")]
    found = explain(MODEL, pair, bank, model_name="m", edits=cut, calibration=calibration)
    assert found.reliability is None


def test_a_calibration_of_another_model_is_refused(calibration: Calibration) -> None:
    other = random(CONFIG, seed=6)
    pair = Pair.from_folder(PAIRS / "books", other)
    with pytest.raises(Prob3rError, match="This calibration was made for the model"):
        explain(other, pair, random_probes(other), model_name="o", calibration=calibration)
