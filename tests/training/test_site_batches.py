"""A site batch's gradients are computed on the way forth; they must be those of the way back."""

import pytest
import torch
from torch import Tensor

from prob3r.models import DUSt3R
from prob3r.scenes import Pair
from prob3r.training import site_losses
from prob3r.training.probes import (
    _site_batches,
    bank_for,
    record_streams,
    seen_pixels,
    site_batch_losses,
)


@pytest.mark.parametrize("kind", ["mlp", "linear", "tuned"])
def test_gradients_are_those_of_one_way_back(model: DUSt3R, rooms: Pair, kind: str) -> None:
    model, bank = bank_for(model, kind)
    streams = record_streams(model, bank, rooms)
    weights = torch.rand(len(bank.sites))
    learned = [p for p in bank.parameters() if p.requires_grad]

    def gradients(losses: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((weights * losses).sum(), learned)

    site_batches = list(_site_batches(bank, streams, rooms, seen_pixels(rooms)))
    plain = torch.cat([site_batch_losses(bank, site_batch) for site_batch in site_batches])
    losses = site_losses(bank, streams, rooms)
    assert torch.equal(losses, plain)
    for found, expected in zip(gradients(losses), gradients(plain), strict=True):
        torch.testing.assert_close(found, expected)


def test_losses_without_gradients_cost_none(model: DUSt3R, rooms: Pair) -> None:
    _, bank = bank_for(model, "mlp")
    streams = record_streams(model, bank, rooms)
    with torch.no_grad():
        losses = site_losses(bank, streams, rooms)
    assert not losses.requires_grad
    assert torch.equal(losses, site_losses(bank, streams, rooms))
