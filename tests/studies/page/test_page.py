import json
from pathlib import Path
from typing import Any

import pytest

from prob3r.errors import Prob3rError
from prob3r.studies import STUDIES, write_findings
from prob3r.studies.page.claims import CLAIMS

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
STORED = Path(__file__).parents[3] / "docs" / "findings"
NAMES = ("mini", "mini-7scenes", "first-mini", "mini-vggt", "mini-vggt-7scenes")
MODELS = [STORED / name for name in NAMES]


def saved(folder: Path, name: str, *findings: dict[str, Any], **changes: Any) -> None:
    home = folder / name
    home.mkdir(parents=True)
    result: dict[str, Any] = {
        "title": f"About {name}",
        "model": "m",
        "weights": "abc",
        "data": "rooms:test",
    }
    result |= {"pairs": 64, "findings": [FINDING | each for each in findings or ({},)]}
    (home / "findings.json").write_text(json.dumps(result | changes))


def cells(page: str, start: str) -> list[str]:
    """The cells of the one row of the table whose first cell begins so."""
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_page_says_what_was_saved_and_shows_the_figures(tmp_path: Path) -> None:
    saved(tmp_path, "two")
    saved(tmp_path, "one", {"verdict": "mixed", "effect": None})
    (tmp_path / "two" / "curve.png").touch()
    text = write_findings(tmp_path, ["one", "two", "three"]).read_text()
    assert text.startswith("# Findings for m\n")
    assert text.index("## About one") < text.index("## About two")
    assert "- No result of `m` is stored for `three`." in text
    assert "**supported**. -0.25 [-0.3, -0.2] (pointmap error; 64 pairs)" in text
    assert "mixed. not measurable" in text
    assert "Controls: random 0.5." in text
    assert "![two: curve](two/curve.png)" in text
    assert "(#about-two)" in text


def test_a_note_stands_below_the_answers(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    (tmp_path / "one" / "note.md").write_text("This model cannot *differ* here.\n")
    (tmp_path / "one" / "curve.png").touch()
    text = write_findings(tmp_path, ["one"]).read_text()
    answer, note, figure = (text.index(words) for words in ("**supported**. -0.25", "cannot", "!["))
    assert answer < note < figure
    assert "\n\nThis model cannot *differ* here.\n\n" in text


def test_a_page_elsewhere_finds_its_figures(tmp_path: Path) -> None:
    saved(tmp_path / "docs" / "findings", "one")
    (tmp_path / "docs" / "findings" / "one" / "curve.png").touch()
    page = tmp_path / "docs" / "findings.md"
    assert write_findings(tmp_path / "docs" / "findings", ["one"], page) == page
    assert "![one: curve](findings/one/curve.png)" in page.read_text()


def test_claims_go_down_and_models_across(tmp_path: Path) -> None:
    matching = {"claim": "C4", "unit": "PCK@1 of head 2"}
    cross = matching | {"statement": "Cross-attention aligns matching patches: 14 heads"}
    whole = matching | {"statement": "Global attention aligns matching patches: 3 heads"}
    saved(tmp_path / "a", "correspondence", cross)
    saved(
        tmp_path / "b",
        "correspondence",
        whole | {"verdict": "not supported", "effect": 0.5, "unit": "PCK@1 of head 7"},
        model="n",
        weights="xyz",
    )
    saved(tmp_path / "b", "roles", {"claim": "C2"}, model="n", weights="xyz")
    folders = [tmp_path / "a", tmp_path / "b"]
    text = write_findings(folders, ["roles", "correspondence"], tmp_path / "page.md").read_text()
    assert text.startswith("# Findings for m and n\n")
    assert "`m` (`abc`), `n` (`xyz`)" in text
    assert cells(text, "claim") == ["claim", "reported, and on which model", "`m`", "`n`"]
    assert cells(text, "Attention between the views aligns matching patches") == [
        "Attention between the views aligns matching patches",
        "",
        "[**supported**](#about-correspondence-in-m) -0.25 [-0.3, -0.2] PCK@1 of head 2",
        "[**not supported**](#about-correspondence-in-n) 0.5 [-0.3, -0.2] PCK@1 of head 7",
    ]
    assert cells(text, "Geometry is refined (pointmap error)")[2:] == [
        "not run",
        "[**supported**](#about-roles-in-n) -0.25 [-0.3, -0.2]",
    ]
    assert "\n## About correspondence, in m\n" in text
    assert "- No result of `m` is stored for `roles`." in text
    assert text.index("**C2**") < text.index("**C4**") < text.index("**N1**")


def test_what_a_paper_reported_stands_beside_its_claim(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    text = write_findings(tmp_path, ["one", "middle_blocks"]).read_text()
    for claim in CLAIMS:
        _, reported, *answers = cells(text, f"**{claim.number}** {claim.statement}")
        assert reported.startswith(claim.reported)
        assert (f"https://arxiv.org/abs/{claim.arxiv}" in reported) == bool(claim.paper)
        assert answers == ([""] if claim.number == "C1" else ["not run"])
    assert "; `prob3r study middle_blocks`" in cells(text, "**N2**")[0]
    assert "; no study asks it yet" in cells(text, "**N4**")[0]


def test_a_control_has_a_column_of_its_own(tmp_path: Path) -> None:
    twin = {"statement": "In a twin that carries an explicit pose, the same cut breaks the pose"}
    own = {"statement": "The pose does not rest on sinks: 0 of 48 heads"}
    relatives = {"mini-pose": "def", "other": "ghi"}
    findings = [own | {"claim": "C3"}, twin | {"claim": "C3"}]
    saved(tmp_path, "pose", *findings, relatives=relatives)
    text = write_findings(tmp_path, ["pose"]).read_text()
    assert "`m` (`abc`), `mini-pose` (`def`)." in text
    answer = "[**supported**](#about-pose) -0.25 [-0.3, -0.2]"
    assert cells(text, "The pose does not rest on sinks")[2:] == [answer, "not run"]
    assert cells(text, "In a model that carries an explicit pose, the same cut")[2:] == [
        "–",
        answer,
    ]
    assert "- No study was run on `mini-pose` itself" in text


def test_findings_of_own_studies_have_rows_of_their_own(tmp_path: Path) -> None:
    own = {"claim": "X1", "statement": "3 of 4 |heads| look left: head 2 of decoder.1"}
    other = {"statement": "1 of 9 |heads| look left: head 0 of global.3"}
    saved(tmp_path / "a", "own", own)
    saved(tmp_path / "b", "own", own | other, model="n")
    folders = [tmp_path / "a", tmp_path / "b"]
    text = write_findings(folders, ["own"], tmp_path / "page.md").read_text()
    assert r"| n of n \|heads\| look left (pointmap error) | | [**supp" in text
    assert text.index("**past the paper**") < text.index("| **X1** |")


def test_scenes_of_many_views_are_not_called_pairs(tmp_path: Path) -> None:
    saved(tmp_path, "one", views=4)
    text = write_findings(tmp_path, ["one"]).read_text()
    assert "On 64 scenes of 4 views of `rooms:test`." in text
    assert "(pointmap error; 64 scenes). Controls" in text


def test_a_unit_stands_once_and_not_beside_what_was_not_measured(tmp_path: Path) -> None:
    saved(tmp_path / "a", "one")
    saved(tmp_path / "b", "one", {"effect": None, "unit": "error"}, model="n")
    text = write_findings([tmp_path / "a", tmp_path / "b"], ["one"]).read_text()
    assert cells(text, "Geometry is refined")[::2] == [
        "Geometry is refined (pointmap error)",
        "[**supported**](#about-one-in-m) -0.25 [-0.3, -0.2]",
    ]
    assert (
        cells(text, "Geometry is refined")[3] == "[**supported**](#about-one-in-n) not measurable"
    )


def test_files_are_named_by_their_stems_where_these_tell_them_apart(tmp_path: Path) -> None:
    saved(tmp_path / "a", "one", model="runs/1/last.safetensors")
    saved(tmp_path / "b", "one", model="runs/2/last.safetensors")
    saved(tmp_path / "c", "one", model="runs/3/my_model.safetensors")
    folders = [tmp_path / letter for letter in "abc"]
    text = write_findings(folders, ["one"]).read_text()
    both = "runs/1/last.safetensors and runs/2/last.safetensors"
    assert text.startswith(f"# Findings for {both} and my_model\n")
    assert "(#about-one-in-my_model)" in text


def test_a_file_does_not_take_the_name_of_another_model(tmp_path: Path) -> None:
    saved(tmp_path, "pose", model="runs/mini-pose.safetensors", relatives={"mini-pose": "def"})
    text = write_findings(tmp_path, ["pose"]).read_text()
    assert text.startswith("# Findings for runs/mini-pose.safetensors\n")


def test_stored_findings_answer_known_questions() -> None:
    """A wording that changes would move its finding out of its row."""
    text = (STORED.parent / "findings.md").read_text()
    stored = {folder.name for model in MODELS for folder in model.iterdir()}
    questions = [question for claim in CLAIMS for question in claim.questions]
    for question in (question for question in questions if question.study in stored):
        answers = cells(text, question.statement)[2:]
        assert any("](#" in answer for answer in answers), question


def test_the_page_in_the_docs_is_the_one_that_the_stored_results_give(tmp_path: Path) -> None:
    """But for links to figures, and for lines that follow from which studies there are."""
    fresh = write_findings(MODELS, list(STUDIES), tmp_path / "findings.md")
    apart = ("![", "| **", "- No result of")

    def told(page: Path) -> list[str]:
        lines = page.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith(apart)]

    assert told(STORED.parent / "findings.md") == told(fresh), (
        f"write it again: prob3r findings {' '.join(f'docs/findings/{name}' for name in NAMES)} "
        "--page docs/findings.md"
    )


def test_findings_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    saved(tmp_path, "two", weights="xyz")
    with pytest.raises(Prob3rError, match=r"m \(abc\) and m \(xyz\)"):
        write_findings(tmp_path, ["one", "two"])


def test_a_model_has_one_folder_for_each_data_set(tmp_path: Path) -> None:
    saved(tmp_path / "a", "one")
    saved(tmp_path / "b", "one")
    with pytest.raises(Prob3rError, match=r"a and .*b both hold findings of m on rooms:test"):
        write_findings([tmp_path / "a", tmp_path / "b"], ["one"])


def test_columns_name_the_data_if_there_is_more_than_one_data_set(tmp_path: Path) -> None:
    """A control of a study stands beside the model itself on the same data."""
    control = {
        "claim": "C3",
        "statement": "In a model that carries an explicit pose, the same cut breaks the pose",
    }
    folders = [tmp_path / name for name in ("rooms", "kitchen", "positive")]
    saved(folders[0], "pose", {}, control, relatives={"mini-vggt": "def"})
    saved(folders[0], "one", {}, data="lookalikes:test")
    saved(folders[0], "two")
    saved(folders[1], "pose", {}, control, relatives={"mini-vggt": "def"}, data="7scenes:kitchen")
    saved(folders[2], "two", model="mini-vggt", weights="def")
    text = write_findings(folders, ["pose", "one", "two"]).read_text()
    header = cells(text, "claim")
    on = {"rooms:test": "`m on rooms:test`", "kitchen": "`m on 7scenes:kitchen`"}
    beside = ["`mini-vggt on rooms:test`", "`mini-vggt on 7scenes:kitchen`"]
    assert header[2:] == [*on.values(), *beside]
    assert text.startswith("# Findings for m and mini-vggt\n")
    assert "`m` (`abc`), `mini-vggt` (`def`)" in text
    own, kitchen, *positives = cells(text, "In a model that carries an explicit pose, the same")[2:]
    assert own == kitchen == "–"
    assert "#about-pose-in-m-on-roomstest" in positives[0]
    assert "#about-pose-in-m-on-7sceneskitchen" in positives[1]


def test_no_findings_and_damaged_ones_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="holds no findings"):
        write_findings(tmp_path, ["one"])
    saved(tmp_path, "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "not-run.json").write_text("[]")
    with pytest.raises(Prob3rError, match=r"not-run.json is damaged"):
        write_findings(tmp_path, ["one", "two"])
    (tmp_path / "one" / "findings.json").write_text("{")
    with pytest.raises(Prob3rError, match=r"findings.json is damaged"):
        write_findings(tmp_path, ["one"])
