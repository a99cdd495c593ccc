"""The study of dictionaries: its rules by tables whose answer is known, and a small run."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.measures.atoms import TESTS
from prob3r.models import DUSt3R, fingerprint, random
from prob3r.probes.dictionary import Dictionary, DictionaryShape, file_name
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies import LackingError, ModelUnderTest, conduct
from prob3r.studies import dictionaries as study
from prob3r.studies.dictionaries import Dictionaries
from prob3r.studies.dictionaries.findings import LEVEL
from prob3r.studies.page import write_findings

PLACES = ("dec*.0.mlp", "dec*.1.mlp")


def row(pair: int, metric: str, source: str, site: str, value: float, **others) -> dict:
    return {"pair": pair, "metric": metric, "source": source, "site": site, "value": value} | others


def made(
    unexplained: tuple[float, float] = (-0.1, -0.1),
    rotation: tuple[float, float] = (-1.0, -1.0),
    atom: float = 0.6,
    control: float = 0.1,
    rival: float = 0.3,
    untrained: float = 0.2,
) -> pd.DataFrame:
    """A table in which atoms differ by so much from principal directions, and score so much."""
    draw = np.random.default_rng(0)
    rows = []
    for pair in range(40):

        def near(value: float) -> float:
            return value + 0.01 * draw.standard_normal()

        rows.append(row(pair, "rotation_error", "clean", "", 5.0))
        for place, gain, turn in zip(PLACES, unexplained, rotation, strict=True):
            level = {"first": 0.4, "largest": 0.3, "atoms": 0.3 + gain, "untrained": 0.2}
            for source, value in level.items():
                rows.append(row(pair, "unexplained", source, place, near(value)))
                rows.append(row(pair, "active", source, place, 16.0, dead=0.25))
                rows.append(row(pair, "moved", source, place, 0.1))
            errors = {"first": 9.0, "largest": 8.0, "atoms": 8.0 + turn, "mean": 70.0}
            for source, value in errors.items():
                rows.append(row(pair, "rotation_error", source, place, near(value)))
        scores = {
            "atoms": atom,
            "random": 0.1,
            "principal": rival,
            "neurons": 0.2,
            "untrained": untrained,
        }
        for source, value in scores.items():
            told = {"unit": 7, "control": near(control), "beyond": 3, "units": 512}
            rows.append(row(pair, "floor", source, PLACES[0], near(value), **told))
    return pd.DataFrame(rows)


def verdicts(**numbers) -> list[str]:
    return [finding.verdict for finding in Dictionaries().findings(made(**numbers))]


def test_atoms_must_win_at_every_place() -> None:
    assert verdicts() == ["supported"] * 3
    assert verdicts(unexplained=(-0.1, 0.1))[0] == "mixed"
    assert verdicts(unexplained=(0.1, 0.1))[0] == "not supported"
    assert verdicts(rotation=(-1.0, 1.0))[1] == "mixed"
    assert verdicts(rotation=(1.0, 1.0))[1] == "not supported"


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({}, "supported"),
        ({"control": 0.6}, "not supported"),  # the place alone tells as much
        ({"rival": 0.8}, "not supported"),
        ({"untrained": 0.8}, "not supported"),
        ({"rival": 0.6}, "mixed"),
        ({"untrained": 0.6}, "mixed"),
    ],
)
def test_an_atom_must_beat_its_control_the_streams_units_and_random_weights(
    numbers: dict[str, float], verdict: str
) -> None:
    assert verdicts(**numbers)[2] == verdict


def test_findings_say_what_they_rest_on() -> None:
    lost, harmed, told = Dictionaries().findings(made(unexplained=(-0.1, -0.05)))
    assert lost.effect == pytest.approx(-0.05, abs=0.01)  # where atoms gain the least
    assert "16.0 atoms active, 25 % dead" in lost.control
    assert re.search(r"`dec\*\.1\.mlp`: atoms 0\.2[45]\d .* first 0\.[34]\d\d", lost.control)
    assert harmed.control.startswith("clean 5.00")
    assert told.statement == "An atom tells the floor: atom 7 of `dec*.0.mlp`"
    assert told.effect == pytest.approx(0.3, abs=0.01)
    assert "3 of 512 units above every control" in told.control
    assert pytest.approx(1 - 0.05 / len(TESTS)) == LEVEL
    assert told.high - told.low > 0


def test_figures_have_units() -> None:
    figures = Dictionaries().figures(made())
    assert set(figures) == {"lost", "told"}
    for drawn in figures.values():
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)


@pytest.fixture
def tested(model: DUSt3R, tmp_path: Path) -> ModelUnderTest:
    for backbone, seed in ((model, None), (random(model, 3), 3)):
        weights = fingerprint(backbone)
        made = Dictionary.drawn(
            DictionaryShape("dec*.1.mlp", 24, 48, 6, backbone=weights, random_seed=seed)
        )
        made.save(tmp_path / file_name(made.shape))
    return ModelUnderTest(model, "m")


def test_a_model_without_dictionaries_lacks_them(model: DUSt3R) -> None:
    with pytest.raises(LackingError, match="train them with `prob3r dictionary train`"):
        Dictionaries().check(ModelUnderTest(model, "m"))


def test_every_coder_is_measured(
    tested: ModelUnderTest, rooms: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHOOSING", 6)
    asked = Dictionaries()
    asked.folder = tmp_path
    asked.check(tested)
    source = Rooms("test", (16, 16), compile=False)
    with torch.no_grad():
        asked.prepare(tested, source)
        table = asked.measure(tested, rooms)
    lost = table[table.metric == "unexplained"]
    assert set(lost.source) == {"atoms", "first", "largest", "random", "untrained"}
    assert (table[(table.metric == "active") & (table.source == "atoms")].value <= 6).all()
    moved = table[table.metric == "moved"].groupby("source").value.mean()
    assert moved["clean"] == 0
    assert (moved.drop("clean") > 0).all()
    told = table[table.metric == "depth"]
    assert set(told.source) == {"atoms", "random", "principal", "neurons", "untrained"}
    assert told.value.abs().max() <= 1
    assert told.groupby("source").units.first()["neurons"] == 48  # both signs of 24 channels
    assert asked.findings(table)


def test_a_study_of_other_dictionaries_is_refused(
    tested: ModelUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CHOOSING", 6)
    asked, source, out = Dictionaries(), Rooms("test", (16, 16), compile=False), tmp_path / "out"
    asked.folder = tmp_path
    conduct(asked, tested, source, 2, out, "rooms:test")
    used = {path.name: Dictionary.load(path) for path in tmp_path.glob("*.safetensors")}
    prints = {name: each.fingerprint for name, each in used.items()}
    for file in ("study.json", "findings.json"):
        about = json.loads((out / asked.name / file).read_text())
        assert about["dictionaries"] == prints
    page = write_findings(out, [asked.name]).read_text()
    assert all(f"`{name}` ({digits})" in page for name, digits in prints.items())

    name, other = next(iter(used.items()))
    other.bias += 1
    other.save(tmp_path / name)
    again = Dictionaries()
    again.folder = tmp_path
    with pytest.raises(Prob3rError, match="differs in its dictionaries; give a new folder"):
        conduct(again, tested, source, 2, out, "rooms:test")
