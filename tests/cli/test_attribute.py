import json
from pathlib import Path

import pytest
import torch

from prob3r.measures.scalars import Translation
from prob3r.models import DUSt3R, load
from prob3r.runs.attribution import attribute
from prob3r.scenes import Pair
from tests.cli.test_cli import PAIRS, files_of, here, model, run

__all__ = ["files_of", "here", "model"]

TWO = ("attribute", "../a.png", "../b.jpg", "--model", "../model.safetensors")


def test_the_parts_that_matter_are_printed_with_sign_and_unit(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: DUSt3R
) -> None:
    options = ("--of", "depth", "--view", "2", "--top", "3", "--json", "effects.json")
    assert run(monkeypatch, *TWO, *options) == 0
    printed = capfd.readouterr().out
    assert "The 3 parts that matter most for the mean depth of view 2" in printed
    assert "by nothing (zero)" in printed
    assert "the region moves away" in printed
    content = json.loads((here / "effects.json").read_text())
    assert content["unit"] == "%"
    assert content["protocol"]["of"] == "depth"
    assert len(content["rows"]) == 2 * (2 + 2) + 4 * (3 + 4)  # sublayers and heads, block by block
    strongest = max(content["rows"], key=lambda row: abs(row["effect"]))
    assert f"{strongest['effect']:+.3g} %" in printed.splitlines()[4]


def test_a_folder_and_the_truth_of_a_scalar_of_a_camera(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(PAIRS / "books")
    options = ("--of", "translation", "--baseline", "tokens", "--json", "effects.json")
    assert run(monkeypatch, "attribute", folder, *options) == 0
    assert "the mean over the tokens of the same view" in " ".join(capfd.readouterr().out.split())
    network = load("mini")
    pair = Pair.from_folder(folder, network)
    content = json.loads((here / "effects.json").read_text())
    value = attribute(network, pair, Translation(), kinds=["heads"], sites="dec2.5.*").value
    assert content["value"] == pytest.approx(float(value[0]), rel=1e-4)
    assert torch.isfinite(torch.tensor([row["effect"] for row in content["rows"]])).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--of", "colour"), "of is 'colour'; it must be one of rotation, translation, depth"),
        (("--of", "truth"), "No truth is known of these views"),
        (("--view", "1"), "view is 1, whose camera is the origin"),
        (("--view", "3"), "There is no view 3; views count from 1 to 2"),
        (("--region", "0", "0", "8", "8"), "A region is given, and rotation has none"),
        (("--of", "depth", "--region", "0", "0", "80", "8"), "give a box within"),
        (("--baseline", "ones"), "baseline is 'ones'; it must be zero or tokens"),
        (("--against", "../a.png", "--means", "m"), "Both means and another run are given"),
        (("--against", "../a.png"), "is no pair; give two photographs"),
        (("--means", "../bank.safetensors"), "holds no means"),
    ],
)
def test_what_cannot_be_attributed_is_one_sentence(
    options: tuple[str, ...],
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *TWO, *options) == 1
    printed = " ".join(capfd.readouterr().err.split())
    assert said in printed
    assert "Traceback" not in printed
