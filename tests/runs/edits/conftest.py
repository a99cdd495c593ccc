"""A small model, two pairs whose views differ in size, and a slow readable reference of edits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.models.sites import Tap
from prob3r.scenes import Pair, View

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)

Change = Callable[[str, Tensor], Tensor]


def same(_: str, tensor: Tensor) -> Tensor:
    return tensor


class Explicit(Tap):
    """Attention written out, with a change of the logits, the map, the heads or the stream."""

    def __init__(
        self,
        logits: Change = same,
        probs: Change = same,
        heads: Change = same,
        stream: Change = same,
    ):
        self.logits, self.probs, self.heads, self.stream = logits, probs, heads, stream

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return self.stream(site, tensor.clone())

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        logits = torch.einsum("bkne,bkme->bknm", queries, keys) / queries.shape[-1] ** 0.5
        probs = self.probs(site, self.logits(site, logits).softmax(-1))
        return self.heads(site, torch.einsum("bknm,bkme->bkne", probs, values))


def at(site: str, change: Callable[[Tensor], Tensor]) -> Change:
    """The change, at one site only."""
    return lambda name, tensor: change(tensor) if name == site else tensor


def flat(output: Prediction | None) -> tuple[Tensor, ...]:
    assert output is not None
    return (*output.points, *output.confidence)


def close(one: Prediction | None, other: Prediction | None) -> None:
    torch.testing.assert_close(flat(one), flat(other), rtol=1e-5, atol=1e-5)


def identical(one: Prediction | None, other: Prediction | None) -> bool:
    return all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


@pytest.fixture(scope="session")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="session")
def pair() -> Pair:
    """View 1 has 16 patches and view 2 has 6."""
    generator = torch.Generator().manual_seed(0)
    view1, view2 = (
        View(2 * torch.rand(2, 3, *size, generator=generator) - 1) for size in ((32, 32), (16, 24))
    )
    return Pair(view1, view2)


@pytest.fixture(scope="session")
def other(pair: Pair) -> Pair:
    """Two more pairs of the same sizes."""
    generator = torch.Generator().manual_seed(1)
    return pair.map(lambda t: 2 * torch.rand(t.shape, generator=generator) - 1)


@pytest.fixture(scope="session")
def clean(model: DUSt3R, pair: Pair) -> Prediction:
    with torch.no_grad():
        output: Prediction = model(pair.view1.image, pair.view2.image)
    return output


@pytest.fixture(scope="session")
def reference(model: DUSt3R, pair: Pair) -> Callable[[Tap], Prediction]:
    def run(tap: Tap) -> Prediction:
        with torch.no_grad():
            output: Prediction = model(*pair.images, tap=tap)
        return output

    return run
