"""Result files say what they rest on, and only those of one protocol are laid side by side."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prob3r import __version__
from prob3r.cli.compare import print_comparison
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3RConfig, fingerprint, random
from prob3r.runs.precision import running_in
from prob3r.studies.framework.results import (
    compare,
    frames_of,
    provenance,
    read_result,
    write_result,
)

MODEL = random(DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2))


def written(path: Path, value: float = 0.5, **changes: Any) -> Path:
    protocol = {"name": "re10k-poses", "alignment": "none"} | changes.pop("protocol", {})
    frames = frames_of(changes.pop("names", ["a", "b"]), "by hand")
    content = provenance(MODEL, path.stem, "somewhere", protocol, frames)
    row = {"metric": "AUC@30", "value": value, "low": 0.1, "high": 0.9, "better": "larger"}
    write_result({**content, "rows": [row], **changes}, path)
    return path


def test_a_result_says_what_it_rests_on(tmp_path: Path) -> None:
    content = read_result(written(tmp_path / "a.json"))
    assert content["model"] == {"name": "a", "fingerprint": fingerprint(MODEL)}
    assert content["precision"] == "float32"
    assert content["prob3r"] == __version__
    assert content["frames"]["list"] == ["a", "b"]
    assert len(content["frames"]["digest"]) == 16
    with running_in("bfloat16", MODEL):
        assert provenance(MODEL, "a", "", {"name": "x"}, {})["precision"] == "bfloat16"


def test_results_of_one_protocol_stand_side_by_side(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.json"), written(tmp_path / "b.json", 0.75)]
    found = compare(files)
    assert found.title == "re10k-poses"
    assert found.facts["model"] == ["a", "b"]
    assert found.rows == [("AUC@30", [(0.5, 0.1, 0.9), (0.75, 0.1, 0.9)])]
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    print_comparison(console, found, ["a.json", "b.json"])
    text = (tmp_path / "out").read_text()
    assert "0.75 [0.1, 0.9]" in text
    assert "re10k-poses" in text


def test_a_row_that_one_result_lacks_is_empty(tmp_path: Path) -> None:
    lacking = written(tmp_path / "b.json", rows=[], precision="bfloat16")
    found = compare([written(tmp_path / "a.json", math.nan), lacking])
    ((label, (first, second)),) = found.rows
    assert label == "AUC@30"
    assert math.isnan(first[0])
    assert second is None
    assert found.facts["precision"] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"protocol": {"name": "co3dv2-poses"}},
            r"their protocol \(re10k-poses against co3dv2-poses\)",
        ),
        (
            {"protocol": {"alignment": "a similarity"}},
            r"the protocol's alignment \(none against a similarity\)",
        ),
        (
            {"protocol": {"farthest": 3}},
            r"the protocol's farthest \(None against 3\)",
        ),
        (
            {"names": ["a"]},
            r"their frames \(2 scenes, digest \w{16}, against 1 scenes, digest \w{16}\)",
        ),
    ],
)
def test_other_protocols_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    files = [written(tmp_path / "a.json"), written(tmp_path / "b.json", **changes)]
    with pytest.raises(Prob3rError, match=rf"a\.json and .*b\.json differ in {words}; only"):
        compare(files)


def test_only_the_model_s_own_rows_of_pairs_are_compared(tmp_path: Path) -> None:
    rows = [
        {"source": source, "stratum": "all", "site": site, "view": 2, "metric": "rotation_error",
         "value": 3.0, "low": 2.0, "high": 4.0, "pairs": 9}
        for source, site in (("model", "head"), ("random", "head"), ("model", "dec2.1.mlp"))
    ]  # fmt: skip
    files = [written(tmp_path / name, rows=rows) for name in ("a.json", "b.json")]
    assert [label for label, _ in compare(files).rows] == ["all 2 rotation_error"]


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"rows": []}))
    with pytest.raises(Prob3rError, match=r"old\.json does not say its protocol and its frames"):
        read_result(file)
    row = {"site": "dec2.1.cross_attn", "metric": "rotation_error", "value": 1, "low": 0, "high": 2}
    sweep = written(tmp_path / "sweep.json", rows=[row])
    with pytest.raises(Prob3rError, match=r"sweep\.json holds no metric of a model's output"):
        compare([sweep, sweep])
    file.write_text("{")
    with pytest.raises(Prob3rError, match=r"old\.json cannot be read"):
        read_result(file)
    with pytest.raises(Prob3rError, match=r"none\.json cannot be read"):
        read_result(tmp_path / "none.json")
