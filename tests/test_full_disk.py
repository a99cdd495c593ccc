"""A disk that is full: one sentence, nothing old is lost, and the work goes on after."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, random
from prob3r.probes import load_probes, save_probes
from prob3r.report import Explanation, write_json, write_page, write_ply
from prob3r.rooms import Rooms
from prob3r.studies.framework.conduct import conduct
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.training import run
from prob3r.training.probes import bank_for
from tests.report.conftest import guessing
from tests.studies.framework.test_study import CONFIG, Depths
from tests.training.test_loop import Line

__all__ = ["guessing"]

SIZE = 2 * 2**20


class Disk:
    """A small disk that can be filled."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        with suppress(OSError), self.filler.open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        with self.filler.open("ab", 0) as file:
            file.truncate(max(self.filler.stat().st_size - left, 0))

    def free(self) -> None:
        self.filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


LEFT = (0, 8192)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize(
    ("write", "name"), [(write_page, "a.html"), (write_json, "a.json"), (write_ply, "a.ply")]
)
def test_a_page_and_its_numbers(
    disk: Disk, guessing: Explanation, write: Callable[..., None], name: str, left: int
) -> None:
    kept(disk, disk.folder / name, lambda path: write(guessing, path), left)


@pytest.mark.parametrize("left", LEFT)
def test_a_bank(disk: Disk, model: DUSt3R, left: int) -> None:
    bank = bank_for(model, "mlp")[1]
    path = disk.folder / "a.safetensors"
    kept(disk, path, lambda path: save_probes(bank, path), left)
    assert load_probes(path).sites == bank.sites


def kept(disk: Disk, path: Path, write: Callable[[Path], None], left: int) -> None:
    """Write a file, fail to write it again, and write it once there is space."""
    write(path)
    before = path.read_bytes()
    assert len(before) > left
    disk.fill(left)
    with pytest.raises(Prob3rError, match=rf"{path.name} cannot be written.*[Ss]pace"):
        write(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in disk.folder.iterdir()) == [path.name, "filler"]
    disk.free()
    write(path)
    assert path.read_bytes() == before


def test_a_study(disk: Disk, model: DUSt3R, tmp_path: Path) -> None:
    rooms, tested = Rooms("test", (32, 32), compile=False), ModelUnderTest(model, "m")

    def fill(done: int, total: int) -> None:
        if done == 2:
            disk.fill()

    with pytest.raises(Prob3rError, match=r"parquet cannot be written.*No space"):
        conduct(Depths(), tested, rooms, 6, disk.folder, "rooms:test", fill)
    parts = disk.folder / "depths" / "parts"
    assert [p.name for p in parts.iterdir()] == ["00000.parquet"]
    disk.free()
    again = Depths()
    result = conduct(again, tested, rooms, 6, disk.folder, "rooms:test")
    assert again.measured == [f"rooms/test/{n}" for n in (2, 3, 4, 5)]
    unbroken = conduct(Depths(), tested, rooms, 6, tmp_path / "other", "rooms:test")
    pd.testing.assert_frame_equal(result.table, unbroken.table)


@pytest.mark.parametrize("left", LEFT)
def test_a_training_state(
    disk: Disk, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 4)

    class Large(Line):
        """With a state that is larger than what is left."""

        def __init__(self, folder: Path):
            super().__init__(folder)
            self.module.register_buffer("ballast", torch.zeros(5000))

        def measure(self) -> dict[str, float]:
            return {}

        def score(self, metrics: dict[str, float]) -> float:
            return torch.inf

    folder = disk.folder / "run"
    run(Large(folder), folder, seconds=0.0)
    before = (folder / "state.pt").read_bytes()
    disk.fill(left)
    with pytest.raises(Prob3rError, match=r"(state\.pt|log\.jsonl) cannot be written.*No space"):
        run(Large(folder), folder)
    assert (folder / "state.pt").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["log.jsonl", "state.pt"]
    disk.free()
    task, unbroken = Large(folder), Large(tmp_path / "other")
    run(task, folder)
    run(unbroken, tmp_path / "other")
    assert torch.equal(task.module.weight, unbroken.module.weight)
