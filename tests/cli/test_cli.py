import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image

from prob3r import cli
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, load, random, save
from prob3r.probes import ProbeBank, load_probes, save_probes
from prob3r.training.probes import bank_for
from tests.training.conftest import _no_compiler

__all__ = ["_no_compiler"]

PAIRS = Path(str(files("prob3r.scenes") / "pairs"))
CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)

RECIPE = """
name = "small"
seed = 0
validation_pairs = 4
[model]
image_size = [16, 16]
patch = 8
enc_width = 16
enc_depth = 1
enc_heads = 2
dec_width = 24
dec_depth = 1
dec_heads = 2
[[stages]]
objective = "pointmaps"
size = 16
pairs = 8
batch = 4
lr = 1e-3
"""


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def files_of(model: DUSt3R, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an untrained bank of it, and photographs good and bad."""
    folder = tmp_path_factory.mktemp("files")
    save(model, folder / "model.safetensors")
    backbone, bank = bank_for(model, "mlp")
    bank.backbone = fingerprint(backbone)
    save_probes(bank, folder / "bank.safetensors")
    save_probes(ProbeBank(bank.sites, bank.config, "another"), folder / "other.safetensors")
    (folder / "damaged.safetensors").write_bytes((folder / "bank.safetensors").read_bytes()[:500])
    noise = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=torch.Generator())
    photograph = Image.fromarray(noise.numpy())
    photograph.save(folder / "a.png")
    photograph.transpose(Image.Transpose.ROTATE_180).save(folder / "b.jpg")
    photograph.convert("L").save(folder / "grey.png")
    photograph.convert("RGBA").save(folder / "rgba.png")
    photograph.convert("CMYK").save(folder / "cmyk.jpg")
    photograph.save(folder / "animated.gif", save_all=True, append_images=[photograph.rotate(9)])
    Image.new("I;16", (48, 40), 3000).save(folder / "deep.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "half.jpg").write_bytes((folder / "b.jpg").read_bytes()[:700])
    (folder / "[").mkdir()
    (folder / "[/b] [red].txt").write_text("no image, under a path that looks like markup")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "bad.toml").write_text(RECIPE.replace("seed", "speed"))
    return folder


@pytest.fixture
def here(files_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder beside the files."""
    working = files_of / tmp_path.name
    working.mkdir()
    monkeypatch.chdir(working)
    return working


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["prob3r", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


EXPLAIN = ("--model", "../model.safetensors", "--probes", "../bank.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain", "none.jpg", "../b.jpg", *EXPLAIN), "none.jpg does not exist"),
        (("explain", "../a.png", "../empty.jpg", *EXPLAIN), "empty.jpg is not an image"),
        (("explain", "../a.png", "../text.jpg", *EXPLAIN), "text.jpg is not an image"),
        (("explain", "../a.png", "../half.jpg", *EXPLAIN), "half.jpg cannot be read"),
        (("explain", "../dot.png", "../b.jpg", *EXPLAIN), "dot.png is 1x1 pixels"),
        (("explain", "..", "../b.jpg", *EXPLAIN), ".. is not a file"),
        (("explain", "../[/b] [red].txt", "../b.jpg", *EXPLAIN), "[/b] [red].txt is not an image"),
        (("explain", "../a.png", *EXPLAIN), "a.png alone is no pair"),
        (("explain", ".", *EXPLAIN), "pair.json does not exist"),
        (("explain", "../a.png", "../b.jpg", "--model", "maxi"), "There is no model 'maxi'"),
        (("explain", "../a.png", "../b.jpg", "--model", "../a.png"), "is not a checkpoint"),
        (
            ("explain", "../a.png", "../b.jpg", "--model", "../bank.safetensors"),
            "holds the architecture None",
        ),
        (
            ("explain", "../a.png", "../b.jpg", *EXPLAIN[:3], "../other.safetensors"),
            "were trained on the model another",
        ),
        (
            ("explain", "../a.png", "../b.jpg", *EXPLAIN[:3], "../damaged.safetensors"),
            "damaged.safetensors is not a whole .safetensors file",
        ),
        (
            ("explain", "../a.png", "../b.jpg", *EXPLAIN[:3], "../model.safetensors"),
            "holds no probe bank",
        ),
        (
            ("explain", "../a.png", "../b.jpg", *EXPLAIN[:3], "cubic"),
            "There are no 'cubic' probes",
        ),
        (("explain", "../a.png", "../b.jpg", *EXPLAIN, "--device", "abacus"), "device 'abacus'"),
        (
            ("explain", "../a.png", "../b.jpg", *EXPLAIN, "--out", "no/page.html"),
            "cannot be written",
        ),
        (("explain", "../a.png", "../b.jpg", *EXPLAIN, "--out", ".."), "cannot be written"),
        (("explain", "../a.png", "../b.jpg", *EXPLAIN, "--ply", "no/a.ply"), "cannot be written"),
        (
            ("demo", "--model", "../model.safetensors", "--out", "../a.png"),
            "cannot be created as a folder",
        ),
        (("evaluate", *EXPLAIN[:2], "--data", "rooms:all"), "There are no pairs 'rooms:all'"),
        (("evaluate", *EXPLAIN[:2], "--data", "nowhere"), "There are no pairs 'nowhere'"),
        (("evaluate", *EXPLAIN[:2], "--data", "."), ". holds no pair"),
        (("evaluate", *EXPLAIN[:2], "--data", str(PAIRS / "books")), "nothing to measure against"),
        (("evaluate", *EXPLAIN[:2], "--probes", "../other.safetensors"), "trained on the model"),
        (
            ("evaluate", *EXPLAIN[:2], "--probes", "cubic"),
            "There are no 'cubic' probes",
        ),
        (("explain", "../a.png", "../b.jpg", *EXPLAIN, "--size", "20"), "multiple of the patch, 8"),
        (("evaluate", "--model", "maxi"), "There is no model 'maxi'"),
        (
            ("evaluate", *EXPLAIN[:2], "--pairs", "2", "--json", "no/rows.json"),
            "rows.json cannot be written",
        ),
        (("rooms", "--split", "holdout"), "split is 'holdout'"),
        (("rooms", "--photographs", "none"), "none holds no photograph"),
        (("rooms", "--start", str(2**30)), "index is 1073741824"),
        (("rooms", "--count", "1", "--size", "8", "--out", "no/rooms.png"), "cannot be written"),
        (("rooms", "--count", "1", "--size", "8", "--out", "."), "cannot be written"),
        (("train", "backbone", "maxi"), "'maxi' is no recipe"),
        (("train", "backbone", "../bad.toml"), "unknown key 'speed'"),
        (
            ("train", "backbone", "../small.toml", "--out", "../a.png"),
            "cannot be created as a folder",
        ),
        (("train", "probes", *EXPLAIN[:2], "--kind", "cubic"), "kind is 'cubic'"),
        (("train", "probes", *EXPLAIN[:2], "--kind", "linear"), "ridge probes are linear too"),
        (("train", "probes", *EXPLAIN[:2], "--out", "../a.png"), "cannot be created as a folder"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_in_one_sentence(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    code = run(monkeypatch, *arguments)
    captured = capfd.readouterr()
    assert code == 1
    (line,) = captured.err.splitlines()
    assert line.startswith("prob3r: ")
    assert said in line
    assert "Traceback" not in captured.out + captured.err
    assert list(here.iterdir()) == []
    assert not [p for p in here.parent.iterdir() if p.name.startswith(".")]


def test_the_process_itself_ends_as_promised(here: Path) -> None:
    command = [sys.executable, "-c", "from prob3r.cli import main; main()"]
    result = subprocess.run(
        [*command, "explain", "a.jpg", "b.jpg", "--model", "../model.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "prob3r: a.jpg does not exist; give the path of an image.\n"


def test_two_processes_write_one_page(here: Path) -> None:
    command = [sys.executable, "-c", "from prob3r.cli import main; main()", "explain"]
    command += ["../a.png", "../b.jpg", *EXPLAIN, "--out", "page.html"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["Wrote page.html\n"] * 2
    assert [path.name for path in here.iterdir()] == ["page.html"]
    assert (here / "page.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("arguments", [("explain",), ("dance",), ("rooms", "--count", "many")])
def test_wrong_usage_is_explained(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert "Usage" in capfd.readouterr().err


def test_a_key_press_stops_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert run(monkeypatch) == 130
    assert capfd.readouterr().err == "prob3r: stopped.\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.png", "a.png"),
        ("grey.png", "rgba.png"),
        ("cmyk.jpg", "deep.png"),
        ("animated.gif", "b.jpg"),
    ],
)
def test_two_photographs_are_explained(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    first: str,
    second: str,
) -> None:
    wanted = ("--out", "page.html", "--json", "numbers.json", "--ply", "points.ply")
    assert run(monkeypatch, "explain", f"../{first}", f"../{second}", *EXPLAIN, *wanted) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines() == [
        "Wrote numbers.json",
        "Wrote points.ply",
        "Wrote page.html",
    ]
    assert captured.err == ""
    page = (here / "page.html").read_text()
    assert "<html" in page
    numbers = json.loads((here / "numbers.json").read_text())
    assert {"setting", "sites", "heads", "happened", "trust"} <= numbers.keys()
    assert sorted(p.name for p in here.iterdir() if p.suffix in (".html", ".json")) == [
        "numbers.json",
        "page.html",
    ]


def test_photographs_are_explained_at_another_size(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("own", ()), ("large", ("--size", "48"))):
        wanted = ("--json", f"{name}.json", *size)
        assert run(monkeypatch, "explain", "../a.png", "../b.jpg", *EXPLAIN, *wanted) == 0
    sizes = [
        json.loads((here / f"{n}.json").read_text())["setting"]["sizes"] for n in ("own", "large")
    ]
    assert sizes == [[[32, 32]] * 2, [[48, 48]] * 2]


def test_a_folder_with_the_truth_is_explained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "explain", str(PAIRS / "aloe"), *EXPLAIN) == 0
    assert capfd.readouterr().out == "Wrote prob3r.html\n"
    assert (here / "prob3r.html").stat().st_size > 10_000


def test_the_demo_explains_a_room_and_the_bundled_photographs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "demo", *EXPLAIN, "--out", "new/out") == 0
    pages = {p.name for p in (here / "new" / "out").iterdir()}
    assert pages >= {"room.html", "books.html", "street.html"}


def test_an_evaluation_is_printed_and_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    monkeypatch.setenv("COLUMNS", "200")
    options = ("--pairs", "3", "--probes", "../bank.safetensors", "--json", "rows.json")
    assert run(monkeypatch, "evaluate", *EXPLAIN[:2], *options) == 0
    captured = capfd.readouterr()
    for word in ("rotation_error", "mean_pose", "shuffled", "random", "dec2.1.mlp", "easy:"):
        assert word in captured.out
    assert captured.err == ""
    rows = json.loads((here / "rows.json").read_text())["rows"]
    assert {row["site"] for row in rows if row["view"] == 1} >= {"head", "dec1.embed"}


def test_readers_are_compared_in_one_table(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    monkeypatch.setenv("COLUMNS", "140")
    options = ("--probes", "../bank.safetensors", "--probes", "logit", "--json", "rows.json")
    assert run(monkeypatch, "evaluate", *EXPLAIN[:2], "--pairs", "3", *options) == 0
    lines = capfd.readouterr().out.splitlines()
    (heads,) = (line.split() for line in lines if line.split().count("logit") == 4)
    assert heads == ["site", *["model", "logit"] * 4]
    (row,) = (line.split() for line in lines if line.split()[:1] == ["dec2.1.mlp"])
    rows = json.loads((here / "rows.json").read_text())["rows"]
    values = {
        (r["source"], r["metric"]): f"{r['value']:.3g}"
        for r in rows
        if (r["site"], r["view"], r["stratum"]) == ("dec2.1.mlp", 2, "all")
    }
    metrics = ("pointmap_error", "rotation_error", "translation_error", "shape_error")
    assert row[1:] == [values[s, m] for m in metrics for s in ("model", "logit")]


def test_photographs_are_evaluated(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    folder = here / "pairs"
    shutil.copytree(PAIRS / "aloe", folder / "aloe")
    assert run(monkeypatch, "evaluate", *EXPLAIN[:2], "--data", "pairs") == 0
    assert "translation_error" in capfd.readouterr().out


def test_rooms_are_drawn(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--count", "2", "--size", "16", "--lookalikes", "--out", "sheet.png")
    assert run(monkeypatch, "rooms", *options) == 0
    assert capfd.readouterr().out == "Wrote sheet.png\n"
    with Image.open(here / "sheet.png") as sheet:
        assert min(sheet.size) >= 32


def test_a_backbone_and_its_probes_are_trained_and_used(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 8)
    for _ in range(2):  # the second time there is nothing left to do
        assert run(monkeypatch, "train", "backbone", "../small.toml", "--out", "run") == 0
        out = capfd.readouterr().out
        assert out == "The best weights so far are run/small.safetensors\n"
    trained = ("--model", "run/small.safetensors")
    assert run(monkeypatch, "train", "probes", *trained, "--pairs", "32", "--out", "probes") == 0
    assert capfd.readouterr().out == "The best probes so far are probes/probes.safetensors\n"
    bank = load_probes(here / "probes" / "probes.safetensors")
    assert bank.backbone == fingerprint(load(here / "run" / "small.safetensors"))
    both = (*trained, "--probes", "probes/probes.safetensors")
    assert run(monkeypatch, "evaluate", *both, "--pairs", "2") == 0
