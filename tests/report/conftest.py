"""Explanations that several tests look at; they are read only."""

from pathlib import Path

import pytest

from prob3r.models import DUSt3R, random
from prob3r.report import Explanation, explain
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from tests.report.stand_ins import CONFIG, KnowingModel, KnowingProbes, random_probes, truth

PAIRS = Path(__file__).parents[2] / "src/prob3r/scenes/pairs"


@pytest.fixture(scope="session")
def room() -> Pair:
    """A room with truth."""
    return Rooms("test", size=(48, 48), compile=False)[1]


@pytest.fixture(scope="session")
def knowing(room: Pair) -> Explanation:
    """Everything is right from the first site on."""
    model = KnowingModel(room)
    return explain(model, room, KnowingProbes(model, truth(room)), model_name="knowing")


@pytest.fixture(scope="session")
def learning(room: Pair) -> Explanation:
    """View 2 starts turned and blurred and is right at the last site."""
    model = KnowingModel(room)
    return explain(model, room, KnowingProbes(model, truth(room), 1.2), model_name="learning")


@pytest.fixture(scope="session")
def guessing() -> Explanation:
    """Random weights on two photographs of which nothing is known."""
    model = random(CONFIG)
    pair = Pair.from_folder(PAIRS / "books", model)
    return explain(model, pair, random_probes(model), model_name="guessing")


@pytest.fixture(scope="session")
def bare_model() -> DUSt3R:
    """Random weights."""
    return random(CONFIG, seed=3)


@pytest.fixture(scope="session")
def swept(bare_model: DUSt3R, room: Pair) -> Explanation:
    """Random weights on a room, with every head switched off in turn."""
    bank = random_probes(bare_model)
    return explain(bare_model, room, bank, model_name="swept", head_effects=True)
