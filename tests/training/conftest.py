"""What training tests share: no compiler, which takes longer than all of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.rooms import Rooms
from prob3r.scenes import Pair

CONFIG = DUSt3RConfig((16, 16), 8, 16, 1, 2, 24, 2, 2)


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_it_is(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
        return function

    monkeypatch.setattr(torch, "compile", as_it_is)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: None)
    monkeypatch.setattr("prob3r.rooms.render._compiled", as_it_is)


@pytest.fixture
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="session")
def rooms() -> Pair:
    """Six pairs of 16x16 pixels, 2x2 patches each."""
    return Rooms("test", size=(16, 16), compile=False).batch(range(6))
