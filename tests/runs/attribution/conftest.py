"""Noise in views of any number, a smooth scalar of any output, and a slow readable reference."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from prob3r.models import Model, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.runs.attribution import Measure
from prob3r.scenes import View, Views
from prob3r.scenes.views import views_of

STEP = 1e-6


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, which run in single precision, run in double precision here."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def noise(size: tuple[int, int], views: int = 2, seed: int = 0) -> Views:
    """Two scenes of noise, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, *size)
    images = [2 * torch.rand(shape, generator=generator).double() - 1 for _ in range(views)]
    return views_of([View(image) for image in images])


def smooth(views: Views, clean: Prediction) -> Measure:
    """Return the mean square of view 2's points, or of the completed patches."""

    def measure(output: Prediction) -> Tensor:
        tensor = output.points[1] if output.patches is None else output.patches[0]
        return tensor.flatten(1).tanh().square().mean(1)

    return measure


class Nudge(Tap):
    """Moves every part of one kind a little way towards zero, each by a share of its own.

    Attributes:
        shares: By site; a part's sublayer, stream or heads move by the share times `STEP`.
    """

    differentiates = True

    def __init__(self, kind: str, shares: Mapping[str, float], sign: float):
        self.kind, self.shares, self.sign = kind, shares, sign
        self.streams: dict[str, Tensor] = {}
        self.clean: dict[str, Tensor] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        if self.kind == "streams" and site in self.shares:
            tensor = tensor - self._step(site) * tensor
        if self.kind == "sublayers" and site in self.shares:
            tensor = tensor - self._step(site) * (tensor - self.streams[Site.parse(site).stream])
        self.streams[Site.parse(site).stream] = tensor
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        probs = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        if self.kind == "edges" and site in self.shares:
            probs = probs - self._step(site) * probs
        heads = probs @ values
        return heads - self._step(site) * heads if self._moves_heads(site) else heads

    def _moves_heads(self, site: str) -> bool:
        return self.kind == "heads" and site in self.shares

    def _step(self, site: str) -> float:
        return self.sign * STEP * self.shares[site]


def nudged(
    model: Model, views: Views, measure: Measure, kind: str, shares: Mapping[str, float]
) -> Tensor:
    """Return the directional derivative of a measure, from two runs."""
    values = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            values.append(measure(model(*views.images, tap=Nudge(kind, shares, sign))))
    return (values[0] - values[1]) / (2 * STEP)
