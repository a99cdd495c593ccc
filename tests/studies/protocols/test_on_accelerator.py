"""Protocols keep to the device that their model is on."""

from collections.abc import Iterator
from copy import deepcopy

import pytest

from prob3r.models import random
from prob3r.studies.protocols import protocol_named, run
from tests.accelerator import accelerator
from tests.studies.protocols.conftest import Written
from tests.studies.protocols.oracle import CONFIG


@pytest.fixture
def device() -> Iterator[str]:
    with accelerator() as name:
        yield name


@pytest.fixture(autouse=True)
def _one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.studies.protocols.sintel.SEQUENCES", ["alley_2"])
    monkeypatch.setattr("prob3r.studies.protocols.eth3d_matches.PAIRS", 1)
    monkeypatch.setattr("prob3r.studies.protocols.eth3d.ETH3DClouds.stride", 4)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("megadepth-1500", "posed_pairs"),
        ("re10k-poses", "re10k"),
        ("eth3d-points", "eth3d"),
        ("sintel-trajectories", "sintel"),
        ("sintel-depth", "sintel"),
        ("hpatches-matches", "hpatches"),
        ("eth3d-matches", "eth3d"),
    ],
)
def test_what_is_measured_is_the_same(root: Written, device: str, name: str, data: str) -> None:
    folder, model = root(data), random(CONFIG, seed=4)
    there = run(protocol_named(name), deepcopy(model).to(device), folder)
    here = run(protocol_named(name), model, folder)
    # Cameras are found by RANSAC in what random weights say, where rounding matters.
    assert there.table.value.tolist() == pytest.approx(
        here.table.value.tolist(), rel=0.1, abs=0.05, nan_ok=True
    )
