"""`prob3r evaluate --protocol` and `prob3r compare`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prob3r import cli
from prob3r.cli.app import app
from prob3r.errors import Prob3rError
from prob3r.models import fingerprint, load
from tests.scenes.readers.benchmark_writers import posed_pairs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("megadepth1500")
    posed_pairs(folder)
    return folder


def prob3r(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Prob3rError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_protocol_is_run_and_its_results_compared(root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    evaluate = ("evaluate", "--protocol", "megadepth-1500", "--data", root)
    output = prob3r(*evaluate, "--json", one)
    assert "mini on megadepth-1500" in output
    assert "AUC@20" in output
    assert "frames: the 1500 pairs of LoFTR" in output
    assert "cameras: by PnP from pointmaps" in output
    content = json.loads(one.read_text())
    assert content["protocol"]["name"] == "megadepth-1500"
    assert content["model"]["fingerprint"] == fingerprint(load("mini"))
    assert [row["metric"] for row in content["rows"]] == ["AUC@5", "AUC@10", "AUC@20"]
    assert len(content["scenes"]) == len(content["frames"]["list"]) == 3
    prob3r(*evaluate, "--json", two)
    assert json.loads(two.read_text()) == content
    table = prob3r("compare", one, two)
    assert "AUC@10" in table
    assert fingerprint(load("mini")) in table
    prob3r(*evaluate, "--pairs", 2, "--json", two)
    with pytest.raises(Prob3rError, match=r"differ in their frames \(3 scenes, digest"):
        prob3r("compare", one, two)


def test_pairs_and_protocols_are_not_compared(root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    prob3r("evaluate", "--data", f"posed-pairs:{root}", "--pairs", 2, "--json", one)
    content = json.loads(one.read_text())
    assert content["protocol"]["name"] == "pairs"
    assert len(content["frames"]["list"]) == 2
    assert content["precision"] == "float32"
    assert "rotation_error" in prob3r("compare", one, one)
    prob3r("evaluate", "--protocol", "megadepth-1500", "--data", root, "--json", two)
    with pytest.raises(Prob3rError, match=r"their protocol \(pairs against megadepth-1500\)"):
        prob3r("compare", one, two)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "co3d", "--data", "x"], "There is no protocol 'co3d'; give one of 7scenes"),
        (["--protocol", "re10k-poses"], "re10k-poses needs --data, the data set's folder: re10k"),
        (["--protocol", "re10k-poses", "--data", "nowhere"], "nowhere does not exist; give a data"),
        (
            ["--protocol", "re10k-poses", "--data", "x", "--probes", "mlp"],
            "--probes has no meaning for the protocol re10k-poses; leave it out",
        ),
        (["--frames", "list.json"], "--frames has no meaning for data without a --protocol"),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], words: str) -> None:
    with pytest.raises(Prob3rError, match=words):
        prob3r("evaluate", *arguments)


def test_one_result_alone_is_not_compared() -> None:
    with pytest.raises(Prob3rError, match=r"There is one result, one\.json; give two or more"):
        prob3r("compare", "one.json")
    assert cli.app is app
