"""The rooms of the house are those that the README and the docs list, and no import runs up."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/prob3r"
LISTS = ("README.md", "docs/house.md")


def listed(page: str) -> list[str]:
    """Return the rooms that a page lists, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(geometry/.*?)```", text, re.DOTALL)
    return re.findall(r"^([a-z]+)/", block, re.MULTILINE)


def rooms_of(file: Path) -> set[str]:
    """Return the rooms that a file imports from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = (name.split(".") for name in names if name.startswith("prob3r."))
    return {part[1] for part in parts}


ROOMS = listed(LISTS[0])


@pytest.mark.parametrize("page", LISTS)
def test_a_list_of_rooms_is_the_folders_that_are_there(page: str) -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(listed(page)) == sorted(folders)
    assert listed(page) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_above_it(room: str) -> None:
    allowed = {*ROOMS[: ROOMS.index(room) + 1], "errors"}
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    up = {str(file.relative_to(PACKAGE)): rooms_of(file) - allowed for file in files}
    assert {file: rooms for file, rooms in up.items() if rooms} == {}
