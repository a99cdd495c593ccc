import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from prob3r.cli.app import app
from prob3r.cli.data import print_survey
from prob3r.errors import Prob3rError
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, View
from prob3r.scenes.check import Survey, draw_sheet, survey
from prob3r.scenes.check.sheet import HEADS
from prob3r.scenes.source import Subset, open_pairs
from tests.scenes.readers.shots import FRAMING
from tests.scenes.readers.writers import nerfstudio, png16, tum


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for write in (nerfstudio, tum):
        (root / write.__name__).mkdir()
        write(root / write.__name__)
    return root


def looked_over(name: str, **options: object) -> Survey:
    return survey(open_pairs(name, FRAMING, strict=False), **options)


def rewrite(root: Path, change: np.ndarray) -> None:
    file = root / "transforms.json"
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ change).tolist()
    file.write_text(json.dumps(content))


def test_a_sound_set_has_no_faults(sets: Path) -> None:
    pairs = open_pairs(str(sets / "tum"), FRAMING)
    found = survey(pairs, 6)
    assert (found.scenes, found.frames, found.pairs, found.asked) == (1, 5, 10, 6)
    assert not found.faults
    assert found.usable
    assert not found.doubt
    assert len(found.checks) == 6
    assert sum(found.histogram()) == 6
    assert len({check.number for check in found.checks}) == 6
    check = found.checks[0]
    pair = pairs[check.number]
    assert check.name == pair.names[0]
    assert check.overlap == pytest.approx(pair.overlap().item())
    assert check.agreement > 0.85
    depth = torch.cat([v.depth[v.valid] for v in (pair.view1, pair.view2)])
    expected = depth.min(), depth.quantile(0.5), depth.max()
    assert check.depth == pytest.approx([x.item() for x in expected])
    assert survey(pairs, 6) == found
    assert survey(pairs, 6, seed=1) != found


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1.0, -1, -1, 1]),  # written with OpenCV's axes
        np.eye(4),
    ],
    ids=["opencv axes", "right"],
)
def test_wrong_axes_are_doubted(sets: Path, tmp_path: Path, change: np.ndarray) -> None:
    root = tmp_path / "nerfstudio"
    shutil.copytree(sets / "nerfstudio", root)
    rewrite(root, change)
    found = looked_over(f"nerfstudio:{root}")
    assert bool(found.doubt) == (not np.allclose(change, np.eye(4)))
    assert found.usable  # nothing is broken


def test_faults_are_found_and_counted(sets: Path, tmp_path: Path) -> None:
    root = tmp_path / "tum"
    shutil.copytree(sets / "tum", root)
    reader = open_pairs(f"tum:{root}", FRAMING)
    reader.image(0).unlink()
    reader.image(1).write_bytes(reader.image(1).read_bytes()[:600])
    reader.depth_file(2).write_bytes(b"")
    png16(reader.depth_file(3), np.full((48, 64), 60_000))
    poses = next(root.glob("*/groundtruth.txt"))
    lines = poses.read_text().splitlines()
    at = [i for i, line in enumerate(lines) if line.startswith("1305031102.3046")]
    assert len(at) == 1
    lines[at[0]] = lines[at[0]].split()[0] + " nan" * 7
    poses.write_text("\n".join(lines))
    found = survey(open_pairs(f"tum:{root}", FRAMING, strict=False), depth_range=(0.1, 10))
    kinds = {kind: len(sentences) for kind, sentences in found.faults.items()}
    assert kinds["missing file"] == 1
    assert kinds["bad camera"] == 1
    assert kinds["corrupt file"] >= 1
    assert str(reader.image(0)) in found.faults["missing file"][0]
    assert found.faulty_frames == 3  # no image, no pose, no depth; the pixels were not looked at
    assert not found.usable


def test_depth_out_of_range_is_a_fault(sets: Path) -> None:
    found = looked_over(str(sets / "tum"), depth_range=(0.1, 1.5), count=10)
    assert found.faulty_pairs == len(found.faults["depth out of range"]) == 10
    assert "is not between 0.1 and 1.5" in found.faults["depth out of range"][0]
    assert not found.usable


def test_pairs_without_frames_are_looked_over_too() -> None:
    found = survey(Subset(Rooms("test", size=(32, 32), compile=False), range(3)))
    assert (found.scenes, found.frames, found.pairs) == (0, 0, 3)
    assert len(found.checks) == 3
    assert found.usable


def test_photographs_without_truth_have_no_looks() -> None:
    class Bare:
        def __len__(self) -> int:
            return 1

        def batch(self, indices: object) -> Pair:
            view = View(torch.zeros(1, 3, 8, 8))
            return Pair(view, view, ("bare",))

    found = survey(Bare())
    assert found.asked == 1
    assert not found.checks
    assert found.usable
    assert not found.doubt
    assert draw_sheet("bare", Bare(), found).width > 1000


def test_the_sheet_shows_pairs_from_least_to_most_overlap(sets: Path) -> None:
    pairs = open_pairs(str(sets / "tum"), FRAMING)
    found = survey(pairs, 10)
    few, many = (draw_sheet("tum", pairs, found, rows) for rows in (2, 4))
    assert few.width == many.width > len(HEADS) * 64
    assert few.height < many.height < 2 * few.height
    assert (np.array(few) < 250).any(axis=2).mean() > 0.3  # more than white


def test_a_point_is_marked_where_the_truth_puts_it(sets: Path) -> None:
    """Two views of one camera: every number is at one place in both tiles."""
    pair = Rooms("test", size=(96, 96), compile=False)[2]
    same = Pair(pair.view1, pair.view1, ("twice",))

    class Twice:
        def __len__(self) -> int:
            return 1

        def batch(self, indices: object) -> Pair:
            return same

    found = survey(Twice())
    assert found.checks[0].agreement == pytest.approx(1, abs=1e-4)
    sheet = np.array(draw_sheet("twice", Twice(), found))
    rows = slice(168, 168 + 96)  # below the summary, the caption and the heads
    tiles = (sheet[rows, 8 + i * 104 : 8 + i * 104 + 96].astype(float) for i in range(3))
    one, two, rebuilt = tiles
    assert np.abs(one - two).mean() < 0.5
    plain = (127.5 * (pair.view1.image[0].permute(1, 2, 0).numpy() + 1)).round()
    seen = pair.view1.valid[0].numpy()
    assert np.abs(rebuilt - plain)[seen].mean() < 1
    assert 50 < (np.abs(one - plain) > 2).any(axis=2).sum() < 96 * 96 / 2


def test_the_command_writes_a_sheet_and_a_table(sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "check.png"
    options = ["--pairs", "4", "--rows", "2", "--out", str(out)]
    result = CliRunner().invoke(app, ["data", "check", f"tum:{sets / 'tum'}", *options])
    assert result.exit_code == 0, result.output
    assert "agreement of colours" in result.output
    assert Image.open(out).width > 1600


def test_the_command_fails_for_a_set_that_cannot_be_used(sets: Path, tmp_path: Path) -> None:
    root = tmp_path / "tum"
    shutil.copytree(sets / "tum", root)
    open_pairs(f"tum:{root}", FRAMING).image(0).unlink()
    out = tmp_path / "check.png"
    result = CliRunner().invoke(app, ["data", "check", str(root), "--out", str(out)])
    assert isinstance(result.exception, Prob3rError)
    assert "1 of 5 frames and 4 of 10 pairs have faults" in str(result.exception)
    assert out.exists()
    options = ["--far", "1", "--out", str(out)]
    result = CliRunner().invoke(app, ["data", "check", str(sets / "tum"), *options])
    assert "10 of 10 pairs have faults" in str(result.exception)


def test_many_faults_are_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    found = Survey(1, 9, 9, 9, 9)
    for i in range(9):
        assert found.add("missing file", f"{i} is missing.")
        assert not found.add("missing file", f"{i} is missing.")
    print_survey(Console(), "x", found)
    shown = capsys.readouterr().out
    assert "missing file: 9" in shown
    assert "4 is missing." in shown
    assert "5 is missing." not in shown
    assert "and 4 more" in shown
