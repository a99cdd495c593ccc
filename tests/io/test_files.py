import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, printable, writing_to


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with writing_to(target) as path:
        path.write_text("new")
        assert path.suffix == ".json"
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "new"


def test_what_stood_there_stays_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with suppress(ZeroDivisionError), writing_to(target) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".a.{ended.pid}.json", f".a.{os.getppid()}.json", ".a.b.json", ".b.1.json"):
        (tmp_path / name).touch()
    with writing_to(tmp_path / "a.json") as path:
        path.write_text("new")
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([f".a.{os.getppid()}.json", ".a.b.json", ".b.1.json", "a.json"])


@pytest.mark.parametrize("name", ["missing/a.json", "file/a.json", "folder", ".", "x" * 300])
def test_where_nothing_can_be_written_there_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(Prob3rError, match=r"cannot be written .*; give a file in a folder"),
        writing_to(tmp_path / name) as path,
    ):
        path.write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_folders_are_made_with_those_above_them(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("name", ["file", "file/folder"])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(Prob3rError, match="cannot be created as a folder"):
        make_folder(tmp_path / name)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_name_that_is_no_utf8_can_be_printed() -> None:
    assert printable("café") == "café"
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf?.png"
