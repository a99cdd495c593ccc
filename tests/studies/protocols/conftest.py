"""The data sets of the protocols, written once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenes.readers import benchmark_writers as writers
from tests.studies.protocols import sets

Written = Callable[[str], Path]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Give the folder of a small data set, written once."""
    kept: dict[str, Path] = {}

    def written(name: str) -> Path:
        if name not in kept:
            folder = tmp_path_factory.mktemp("protocols") / name
            folder.mkdir()
            (getattr(sets, name, None) or getattr(writers, name))(folder)
            kept[name] = folder
        return kept[name]

    return written


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("prob3r.studies.protocols.sintel.SEQUENCES", ["alley_2"])
