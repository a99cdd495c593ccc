"""`prob3r dictionary`: training, and the gallery of what was trained."""

from pathlib import Path

import pytest

from prob3r.probes import Dictionary
from tests.cli.test_cli import files_of, here, model, run

__all__ = ["files_of", "here", "model"]

MODEL = ("--model", "../model.safetensors")


def test_dictionaries_are_trained_kept_and_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = ("--scenes", "40", "--tokens", "2000", "--atoms", "24", "--active", "3")
    train = ("dictionary", "train", *MODEL, "--sites", "dec*.1.mlp", *small)
    assert run(monkeypatch, *train, "--out", "made") == 0
    printed = capfd.readouterr().out
    assert "of the variance unexplained" in printed
    found = {path.name for path in (here / "made").glob("*.safetensors")}
    assert found == {"dictionary-dec_.1.mlp.safetensors", "random-dec_.1.mlp.safetensors"}
    path = here / "made" / "dictionary-dec_.1.mlp.safetensors"
    shape = Dictionary.load(path).shape
    assert (shape.atoms, shape.active, shape.random_seed) == (24, 3, None)
    assert shape.data == "40 scenes of 2 views of rooms:train"
    before = path.stat().st_mtime_ns
    assert run(monkeypatch, *train, "--out", "made") == 0
    assert "which was trained before" in capfd.readouterr().out
    assert path.stat().st_mtime_ns == before
    shown = ("dictionary", "gallery", *MODEL, "--scenes", "3", "--atoms", "4", "--out", "a.html")
    assert run(monkeypatch, *shown, "--dictionary", str(path)) == 0
    assert "Atoms of" in (here / "a.html").read_text()


def test_a_model_without_a_dictionary_is_told_how_to_train_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "dictionary", "gallery", *MODEL) == 1
    assert "train one with `prob3r dictionary train`" in " ".join(capfd.readouterr().err.split())
