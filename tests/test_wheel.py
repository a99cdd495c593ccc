"""The wheel holds all that the package needs, and nothing that it does not."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_explains_a_pair_far_from_its_checkout(unpacked: Path, tmp_path: Path) -> None:
    pair = unpacked / "prob3r/scenes/pairs/books"
    command = [sys.executable, "-m", "prob3r", "explain", str(pair)]
    found = subprocess.run(
        [*command, "--out", "explained.html", "--json", "explained.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "<canvas" in (tmp_path / "explained.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "explained.json").read_text())


def test_a_wheel_holds_no_tests_and_no_oversized_weights(unpacked: Path) -> None:
    tops = {path.name.partition("-")[0] for path in unpacked.iterdir()}
    assert tops == {"prob3r"}
    weights = list((unpacked / "prob3r/weights").glob("*/model.safetensors"))
    assert weights
    assert all(path.stat().st_size < 28e6 for path in weights)
