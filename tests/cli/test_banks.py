"""Probes that commands fit at once, and the cache of banks from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, load, random, save
from prob3r.probes import load_probes
from prob3r.probes.cache import kept
from prob3r.runs.precision import running_precision
from prob3r.scenes import several, source
from prob3r.studies import STUDIES
from tests.cli.test_cli import run
from tests.probes.test_fit import album

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 1, 2)
MODEL = ("--model", "small.safetensors")  # 20 patches x 25 unknowns / 4 patches are 125 scenes
PHOTOS = ("photos/00.png", "photos/01.png")


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture
def here(model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and photographs, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("prob3r.runs.precision.has_bfloat16", lambda device: False)
    monkeypatch.chdir(tmp_path)
    save(model, tmp_path / "small.safetensors")
    album(tmp_path / "photos", 20)
    return tmp_path


def test_explain_fits_what_it_lacks_and_finds_it_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "explain", *PHOTOS, *MODEL, "--json", "first.json") == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "Fitting ridge probes of small.safetensors on 125 scenes of rooms:train takes" in said
    assert run(monkeypatch, "explain", *PHOTOS, *MODEL, "--json", "second.json") == 0
    assert not capfd.readouterr().err
    first, second = (json.loads((here / f"{n}.json").read_text()) for n in ("first", "second"))
    assert first == second
    assert first["setting"]["probes"] == "ridge"
    words = "fitted to the truth on 125 scenes of rooms:train"
    assert first["setting"]["fitted"] == words
    assert f"ridge, {words}" in (here / "prob3r.html").read_text()


def test_a_folder_of_photographs_will_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--fit-on", "photos", "--fit-to", "own")
    assert run(monkeypatch, "explain", *PHOTOS, *MODEL, *options) == 0
    assert "on 125 scenes of" in " ".join(capfd.readouterr().err.split())
    words = f"ridge, fitted to the model&#x27;s own final output on 125 scenes of {here}/photos"
    assert words in (here / "prob3r.html").read_text()


def test_a_folder_of_photographs_is_explained_like_its_photographs(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = (*MODEL, "--probes", "none", "--json")
    assert run(monkeypatch, "explain", "photos", *options, "none.json") == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "takes at most 2 views, and there are 20" in said
    album(here / "two", 2)
    assert run(monkeypatch, "explain", "two", *options, "folder.json") == 0
    assert run(monkeypatch, "explain", "two/00.png", "two/01.png", *options, "named.json") == 0
    assert (here / "folder.json").read_text() == (here / "named.json").read_text()


def test_explain_goes_on_without_probes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--probes", "none", "--json", "numbers.json")
    assert run(monkeypatch, "explain", *PHOTOS, *MODEL, *options) == 0
    assert not capfd.readouterr().err
    assert not kept()
    numbers = json.loads((here / "numbers.json").read_text())
    assert numbers["setting"]["probes"] == "none"
    assert [row["site"] for row in numbers["sites"]] == ["output", "output"]
    assert numbers["final"]["probe_gap"] is None
    assert numbers["heads"]
    page = (here / "prob3r.html").read_text()
    assert "no probes read the layers between" in page
    assert "nan" not in " ".join(s["text"] for s in numbers["happened"] + numbers["trust"])


@pytest.mark.parametrize("views", [3, 4])
def test_several_views_go_without_probes(
    here: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    from tests.models.examples import EXAMPLES

    save(EXAMPLES["vggt"](), here / "vggt.safetensors")
    photographs = [f"photos/{number:02}.png" for number in range(views)]
    arguments = ("--model", "vggt.safetensors", "--probes", "none", "--json", "numbers.json")
    assert run(monkeypatch, "explain", *photographs, *arguments) == 0
    assert "The views" in (here / "prob3r.html").read_text()
    numbers = json.loads((here / "numbers.json").read_text())
    words = " ".join(sentence["text"] for sentence in numbers["happened"] + numbers["trust"])
    assert "nan" not in words
    assert "probe" not in words


def test_banks_are_listed_and_removed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "probes", "list") == 0
    assert "There are no banks in" in capfd.readouterr().out
    fit = ("probes", "fit", *MODEL, "--scenes", "8", "--kind", "ridge", "--kind", "random")
    assert run(monkeypatch, *fit) == 0
    out = capfd.readouterr().out
    assert (
        "ridge probes, fitted to the truth on 8 scenes of rooms:train: mean pointmap error" in out
    )
    assert "random probes, fitted to the truth on 8 scenes" in out
    assert run(monkeypatch, "probes", "list", *MODEL) == 0
    out = capfd.readouterr().out
    names = [bank.name for bank in kept(fingerprint(load("small.safetensors")))]
    assert len(names) == 6
    assert all(name in out for name in names)
    assert run(monkeypatch, "probes", "remove", names[0]) == 0
    assert len(kept()) == 5
    assert run(monkeypatch, "probes", "remove", "--all") == 0
    assert not kept()
    assert run(monkeypatch, "probes", "remove", names[0]) == 1
    assert f"There is no bank '{names[0]}'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("probes", "remove"), "remove needs names of banks, --model, or --all"),
        (("probes", "fit", *MODEL, "--kind", "mlp"), "'mlp' cannot be fitted; give ridge"),
        (
            ("probes", "fit", *MODEL, "--fit-to", "half"),
            "--fit-to is 'half'; it must be truth or own",
        ),
        (
            ("probes", "fit", *MODEL, "--target", "own"),
            "There is no target 'own'; say whose with --fit-to own",
        ),
        (
            ("probes", "fit", *MODEL, "--target", "colour"),
            "There is no target 'colour'; give pointmap, depth, normal, covisibility, match,",
        ),
        (
            ("probes", "fit", *MODEL, "--target", "pose", "--token", "camera", "--scenes", "2"),
            "There is no token 'camera' in this model's trunk; it has no special tokens",
        ),
        (("probes", "fit", *MODEL, "--fit-on", "nowhere"), "There are no pairs 'nowhere'"),
        (
            ("explain", *PHOTOS, *MODEL, "--fit-on", "photos", "--fit-to", "truth"),
            "photos is not known, so probes cannot be fitted to it; fit them to 'own'",
        ),
        (("explain", *PHOTOS, *MODEL, "--probes", "mlp"), "No 'mlp' probes are shipped for"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert run(monkeypatch, *arguments) == 1
    error = capfd.readouterr().err
    assert said in " ".join(error.split())
    assert "Traceback" not in error
    assert not kept()


def test_probes_of_another_target_are_fitted_and_refused_where_points_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fit = ("probes", "fit", *MODEL, "--scenes", "30", "--target", "match")
    assert run(monkeypatch, *fit) == 0
    out = capfd.readouterr().out
    assert "fitted to the truth (match) on 30 scenes of rooms:train: mean end-point error" in out
    (bank, *_) = (each for each in kept() if each.kind == "ridge")
    assert run(monkeypatch, "explain", *PHOTOS, *MODEL, "--probes", str(bank.path)) == 1
    error = " ".join(capfd.readouterr().err.split())
    assert "These probes read the target 'match', but a pointmap is needed here" in error


def test_evaluate_says_what_its_probes_were_fitted_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    options = ("--pairs", "4", "--probes", "ridge", "--probes", "random", "--json", "rows.json")
    assert run(monkeypatch, "evaluate", *MODEL, *options) == 0
    content = json.loads((here / "rows.json").read_text())
    words = "fitted to the truth on 125 scenes of rooms:train"
    assert (content["ridge"], content["random"]) == (words, words)
    assert {row["source"] for row in content["rows"]} >= {"ridge", "random"}
    assert f"ridge: {words}" in " ".join(capfd.readouterr().out.split())


def test_study_fits_probes_and_controls_and_names_them(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    planned = list[set[str]]()

    def seconds(model: DUSt3R, scenes: object) -> float:
        planned.append({bank.kind for bank in kept()})
        return 1.0

    monkeypatch.setattr("prob3r.probes.fit.seconds_of_a_run", seconds)
    options = ("--pairs", "12", "--out", "out")
    assert run(monkeypatch, "study", "refinement", *MODEL, *options) == 0
    assert planned[0] == set()  # the plan comes before what takes long
    assert {bank.kind for bank in kept()} == {"ridge", "random", "encoder"}
    about = json.loads((here / "out/refinement/study.json").read_text())
    words = "fitted to the truth on 125 scenes of rooms:train"
    assert about["probes"] == {"ridge": words, "random": words, "encoder": words}
    assert f"Probes `ridge`: {words}." in (here / "out/findings.md").read_text()
    assert run(monkeypatch, "study", "refinement", *MODEL, *options) == 0


@pytest.mark.parametrize("probes", ["none", "logit"])  # a lens is not what studies read with
def test_without_probes_all_studies_run_that_need_none(
    here: Path, probes: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    few = {name: STUDIES[name] for name in ("refinement", "sinks")}
    monkeypatch.setattr("prob3r.studies.STUDIES", few)
    options = (*MODEL, "--probes", probes, "--pairs", "2", "--out", "out")
    assert run(monkeypatch, "study", "all", *options) == 0
    why = f"needs 'ridge' probes of {MODEL[1]}; fit them with `prob3r probes fit --kind ridge`."
    assert why in json.loads((here / "out/refinement/not-run.json").read_text())["why"]
    assert (here / "out/sinks/findings.json").exists()
    assert bool(kept()) == (probes == "logit")  # a lens has the controls of probes
    assert run(monkeypatch, "study", "refinement", *options) == 1
    assert why in " ".join(capfd.readouterr().err.split())


def test_shipped_probes_are_read_unless_others_are_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prob3r.cli.banks import asked, reader_of
    from prob3r.probes import shipped_probes

    assert shipped_probes("mini", "mlp")
    assert not shipped_probes("small.safetensors", "mlp")
    model = load("mini")
    assert reader_of(model, "mini", "auto").header() == load_probes("mini").header()
    assert reader_of(model, "mini", "random").kind == "random"
    ridge = reader_of(model, "mini", "auto", asked("own", None, "bfloat16", scenes=12))
    words = "fitted to the model's own final output on 12 scenes of rooms:train in bfloat16"
    assert ridge.origin == words


OWN = """
import pandas as pd

from prob3r.studies import Study


class Counts(Study):
    name = "counts"
    title = "How many pairs there are"

    def measure(self, tested, pair):
        return pd.DataFrame({"pair": range(len(pair)), "value": 1.0})

    def findings(self, table):
        return []

    def figures(self, table):
        return {}
"""


def test_a_study_opens_its_pairs_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, plain = list[str](), source.open_pairs

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        opened.append(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(source, "open_pairs", counted)
    monkeypatch.setattr(several, "open_pairs", counted)
    (here / "own.py").write_text(OWN)
    options = (*MODEL, "--probes", "none", "--pairs", "2")
    assert run(monkeypatch, "study", "own.py", *options, "--out", "all") == 0
    assert len(opened) == 1
    bounds = ("--overlap", "0", "1")
    assert run(monkeypatch, "study", "own.py", *options, *bounds, "--out", "some") == 0
    assert len(opened) == 2


def test_the_plan_times_a_run_in_the_precision_of_the_study(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = list[str]()

    def seconds(model: DUSt3R, scenes: object) -> float:
        timed.append(running_precision(model))
        return 1.0

    monkeypatch.setattr("prob3r.probes.fit.seconds_of_a_run", seconds)
    (here / "own.py").write_text(OWN)
    options = (*MODEL, "--probes", "none", "--pairs", "2", "--precision", "bfloat16")
    assert run(monkeypatch, "study", "own.py", *options, "--out", "out") == 0
    assert timed == ["bfloat16"]
