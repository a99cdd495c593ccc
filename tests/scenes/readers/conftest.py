"""Every layout, written once; a test that breaks something takes a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from prob3r.scenes.readers import READERS, Reader
from tests.scenes.readers.benchmark_writers import POSED, WITH_DEPTH
from tests.scenes.readers.shots import FRAMING
from tests.scenes.readers.writers import WRITERS, Truth

LAYOUTS = WRITERS | WITH_DEPTH
"""All layouts with depth."""


class Written(NamedTuple):
    layout: str
    root: Path
    truth: Truth

    def open(self, strict: bool = True) -> Reader:
        return READERS[self.layout](self.root, FRAMING, strict=strict)

    def copy(self, folder: Path) -> "Written":
        """The same on its own; the folder's name, which some frames carry, stays."""
        root = folder / self.root.name
        shutil.copytree(self.root, root)
        return self._replace(root=root)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    kept: dict[str, Written] = {}

    def written(layout: str) -> Written:
        if layout not in kept:
            root = tmp_path_factory.mktemp("sets") / layout
            root.mkdir()
            kept[layout] = Written(layout, root, (LAYOUTS | POSED)[layout](root))
        return kept[layout]

    return written


@pytest.fixture(params=list(LAYOUTS))
def written(request: pytest.FixtureRequest, write: Callable[[str], Written]) -> Written:
    return write(request.param)


@pytest.fixture(params=list(POSED))
def posed(request: pytest.FixtureRequest, write: Callable[[str], Written]) -> Written:
    return write(request.param)
