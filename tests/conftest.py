"""What all tests share: one thread, fixed seeds, a small model with known weights, a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from prob3r.models import DUSt3R
from tests.models.conformance import Case

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")

settings.register_profile("prob3r", derandomize=True, deadline=None)
settings.load_profile("prob3r")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Each process has one thread, also those that the tests start: there is one on every core."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache is a folder of the tests', also in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_case() -> Case:
    return Case.read("tiny_linear")


@pytest.fixture(scope="session")
def tiny_model(tiny_case: Case) -> DUSt3R:
    """3 encoder and 4 decoder blocks, patches of 16 pixels; shared, so leave it as it is."""
    return tiny_case.model()


@pytest.fixture(scope="session")
def tiny_images(tiny_case: Case) -> tuple[Tensor, Tensor]:
    """Two views, `(2, 3, 64, 64)` each."""
    return tiny_case.images()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium, with WebGL on the processor."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium here")
    flags = "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader"
    arguments = [*flags.split(), "--disable-background-networking"]
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()
