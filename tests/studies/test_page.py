import json
from pathlib import Path
from typing import Any

import pytest

from prob3r.errors import Prob3rError
from prob3r.studies import write_findings

FINDING = {
    "claim": "C1",
    "statement": "Geometry is refined",
    "verdict": "supported",
    "effect": -0.25,
    "low": -0.3,
    "high": -0.2,
    "unit": "pointmap error",
    "control": "random 0.5",
    "pairs": 64,
}


def saved(folder: Path, name: str, **changes: Any) -> None:
    home = folder / name
    home.mkdir(parents=True)
    result = {"title": f"About {name}", "model": "m", "weights": "abc", "data": "rooms:test"}
    result |= {"pairs": 64, "findings": [FINDING | changes.pop("finding", {})]} | changes
    (home / "findings.json").write_text(json.dumps(result))


def test_the_page_says_what_was_saved_and_shows_the_figures(tmp_path: Path) -> None:
    saved(tmp_path, "two")
    saved(tmp_path, "one", finding={"verdict": "mixed", "effect": None})
    (tmp_path / "two" / "curve.png").touch()
    text = write_findings(tmp_path, ["one", "two", "three"]).read_text()
    assert text.startswith("# Findings for m\n")
    assert text.index("## About one") < text.index("## About two")
    assert "three" not in text
    assert "**supported**. -0.25 [-0.3, -0.2] (pointmap error; 64 pairs)" in text
    assert "mixed. not measurable" in text
    assert "Controls: random 0.5." in text
    assert "![two: curve](two/curve.png)" in text
    assert "(#about-two)" in text


def test_a_page_elsewhere_finds_its_figures(tmp_path: Path) -> None:
    saved(tmp_path / "docs" / "findings", "one")
    (tmp_path / "docs" / "findings" / "one" / "curve.png").touch()
    page = tmp_path / "docs" / "findings.md"
    assert write_findings(tmp_path / "docs" / "findings", ["one"], page) == page
    assert "![one: curve](findings/one/curve.png)" in page.read_text()


def test_findings_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    saved(tmp_path, "two", weights="xyz")
    with pytest.raises(Prob3rError, match=r"m \(abc\) and m \(xyz\)"):
        write_findings(tmp_path, ["one", "two"])


def test_no_findings_and_damaged_ones_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="holds no findings"):
        write_findings(tmp_path, ["one"])
    saved(tmp_path, "one")
    (tmp_path / "one" / "findings.json").write_text("{")
    with pytest.raises(Prob3rError, match="is damaged"):
        write_findings(tmp_path, ["one"])
