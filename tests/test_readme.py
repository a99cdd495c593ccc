"""What the README shows runs as it stands."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Path(str(files("prob3r.scenes") / "pairs" / "books"))
    shutil.copy(books / "view1.jpg", tmp_path / "a.jpg")
    shutil.copy(books / "view2.jpg", tmp_path / "b.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "README.md", "exec"), names)
    out, points, confidence = names["out"], names["points"], names["confidence"]
    assert isinstance(points, torch.Tensor)
    assert isinstance(confidence, torch.Tensor)
    assert points.shape == out.points[1].shape  # type: ignore[attr-defined]
    assert confidence.shape == out.confidence[1].shape  # type: ignore[attr-defined]
    assert points.isfinite().all()
    assert set(names["effects"].variant) == {"no sinks", "no matches"}  # type: ignore[attr-defined]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_importing_the_package_leaves_the_heavy_parts_for_later() -> None:
    code = (
        "import sys, prob3r; "
        "print([m for m in ('pandas', 'pyarrow', 'roma', 'poselib', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_command_installs_what_the_others_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    used = set(re.fullmatch(r"prob3r\[(.*)\]", everything)[1].split(","))  # type: ignore[index]
    # Matching brings an OpenCV with windows, which many machines cannot load.
    assert used == extras.keys() - {"all", "test", "lint", "matching"}
    dry = ["make", "--dry-run", "--always-make", "demo"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-e '.[all]'" in done.stdout
