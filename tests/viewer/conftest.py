"""A small probed model on a room with truth; what several tests look at is read only."""

import pytest

from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.session import Session

CONFIG = DUSt3RConfig((48, 48), 8, 32, 1, 2, 32, 3, 2)


class Given:
    """A source whose pair is there already."""

    python = 'from prob3r.rooms import Rooms\n\npair = Rooms("test", (48, 48), compile=False)[1]'

    def __init__(self, pair: Pair):
        self.given = pair

    def pair(self, model: DUSt3R) -> Pair:
        return self.given


def probed_of(seed: int, depth: int = 1) -> ProbedModel:
    """A random model with random probes."""
    model = random(CONFIG, seed)
    sites = [site for site in model.sites() if site.startswith("dec")]
    config = ProbeConfig(model.config.dec_width, model.config.patch, depth, 16)
    return ProbedModel(f"random{seed}", model, ProbeBank(sites, config, fingerprint(model), seed))


@pytest.fixture(scope="session")
def probed() -> ProbedModel:
    return probed_of(0)


@pytest.fixture(scope="session")
def room() -> Pair:
    return Rooms("test", size=(48, 48), compile=False)[1]


@pytest.fixture(scope="session")
def experiment(probed: ProbedModel, room: Pair) -> Experiment:
    return Experiment(probed, room)


@pytest.fixture
def session(probed: ProbedModel, room: Pair, experiment: Experiment) -> Session:
    """A session of one's own, with something to compare with."""
    others = {"other probes": lambda: ProbedModel("random0", probed.model, probed_of(0, 2).bank)}
    return Session(probed, Given(room), others, experiment)
