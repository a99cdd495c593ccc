import json
from pathlib import Path

import pytest

from prob3r.runs.edits import Means
from tests.cli.test_cli import PAIRS, files_of, here, model, run

__all__ = ["files_of", "here", "model"]

MODEL = ("--model", "../model.safetensors")


def test_sweep_heads_prints_a_grid_and_writes_every_row(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (*MODEL, "--json", "heads.json")
    assert run(monkeypatch, "sweep", "heads", "../a.png", "../b.jpg", *options) == 0
    printed = capfd.readouterr().out
    assert "dec2.1.cross_attn" in printed
    assert "head 1" in printed
    assert "no truth is known" in printed
    content = json.loads((here / "heads.json").read_text())
    assert content["protocol"]["name"] == "sweep heads"
    assert len(content["frames"]["list"]) == 1
    rows = content["rows"]
    assert len({(row["site"], row["head"]) for row in rows}) == 4
    assert {row["mode"] for row in rows} == {"zero"}
    assert {"block", "metric", "effect", "low", "high", "value", "clean", "pairs"} <= set(rows[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sweep_names_the_precision_that_it_ran_in(
    precision: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (*MODEL, "--precision", precision, "--json", "heads.json")
    assert run(monkeypatch, "sweep", "heads", "../a.png", "../b.jpg", *options) == 0
    assert f"in {precision}" in capfd.readouterr().out
    assert json.loads((here / "heads.json").read_text())["precision"] == precision


def test_means_are_taken_once_and_used_by_the_sweep(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (*MODEL, "--pairs", "3", "--out", "means.safetensors")
    assert run(monkeypatch, "means", *options) == 0
    assert Means.load(here / "means.safetensors").pairs == 3
    modes = ("--mode", "mean", "--mode", "resample", "--means", "means.safetensors")
    data = ("--data", "rooms:test", "--pairs", "2")
    assert run(monkeypatch, "sweep", "heads", *MODEL, *data, *modes, "--json", "heads.json") == 0
    assert "median over 2 pairs" in capfd.readouterr().out
    rows = json.loads((here / "heads.json").read_text())["rows"]
    assert {row["mode"] for row in rows} == {"mean", "resample"}
    assert {row["pairs"] for row in rows if row["metric"] == "rotation_error"} == {2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "sweep needs two photographs"),
        (("../a.png",), "a.png alone is no pair"),
        (("../a.png", "../b.jpg", "--data", "rooms:test"), "sweep needs two photographs"),
        (("../a.png", "../b.jpg", "--sites", "dec2.9.cross_attn"), "No site of this model"),
        (("../a.png", "../b.jpg", "--mode", "half"), "it must be zero, mean or resample"),
        (("../a.png", "../b.jpg", "--precision", "half"), "give one of auto, float32, bfloat16"),
        (("../a.png", "../b.jpg", "--mode", "mean"), "needs `source`, the means of this model"),
        (("../a.png", "../b.jpg", "--mode", "resample"), "at least two"),
        (("../a.png", "../b.jpg", "--means", "none.safetensors"), "none.safetensors"),
        (("../a.png", "../b.jpg", "--means", "../bank.safetensors"), "holds no means"),
    ],
)
def test_a_wrong_sweep_is_one_sentence_and_leaves_no_file(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    code = run(monkeypatch, "sweep", "heads", *arguments, *MODEL, "--json", "heads.json")
    assert code == 1
    error = capfd.readouterr().err
    assert said in " ".join(error.split())
    assert "Traceback" not in error
    assert not list(here.iterdir())


def test_explain_takes_the_heads_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--probes", "../bank.safetensors", "--heads", "--json", "numbers.json")
    folder = str(PAIRS / "books")
    assert run(monkeypatch, "explain", folder, *MODEL, *options) == 0
    heads = json.loads((here / "numbers.json").read_text())["heads"]
    assert all((row["rotation_effect"] is None) == (row["head"] is None) for row in heads)
