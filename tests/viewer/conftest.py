"""A small probed model on a room with truth; what several tests look at is read only."""

import pytest

from prob3r.models import DUSt3RConfig, Model, VGGTConfig, fingerprint, random
from prob3r.models.protocol import trunk
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, Views
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.session import Session

CONFIG = DUSt3RConfig((48, 48), 8, 32, 1, 2, 32, 3, 2)


class Given:
    """A source whose views are there already."""

    python = 'from prob3r.rooms import Rooms\n\nviews = Rooms("test", (48, 48), compile=False)[1]'

    def __init__(self, views: Views):
        self.given = views

    def views(self, model: Model) -> Views:
        return self.given


def probed_of(seed: int, depth: int = 1) -> ProbedModel:
    """A random model with random probes."""
    model = random(CONFIG, seed)
    sites = [site for site in model.sites() if site.startswith("dec")]
    config = ProbeConfig(model.config.dec_width, model.config.patch, depth, 16)
    return ProbedModel(f"random{seed}", model, ProbeBank(sites, config, fingerprint(model), seed))


SHAPE = VGGTConfig(
    image_size=(32, 32), patch=8, width=16, depth=4, heads=2, registers=1, enc_depth=0,
    head_blocks=(0, 1, 2, 3), features=8, channels=(8, 8, 8, 8), cam_depth=1, cam_heads=2,
)  # fmt: skip


def joint_probed(bank: bool = True) -> ProbedModel:
    """A random model of any number of views, with random probes or without."""
    model = random(SHAPE)
    stack = trunk(model)
    sites, config = [str(site) for site in stack.sites(2)], ProbeConfig(stack.width, 8, 1)
    probes = ProbeBank(sites, config, fingerprint(model)) if bank else None
    return ProbedModel("joint", model, probes)


@pytest.fixture(scope="session")
def five() -> Views:
    """A room seen by five cameras, with its truth."""
    return Rooms("test", (32, 32), compile=False, views=5)[1]


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
