import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.models import DUSt3RConfig, random
from prob3r.rooms import Rooms
from prob3r.scenes import Framing, Pair, View
from prob3r.scenes.source import open_pairs
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.lookalikes import Copies, LookAlikes

CONFIG = DUSt3RConfig((64, 64), 8, 16, 1, 2, 16, 2, 2)


def test_copies_are_told_apart_by_their_labels() -> None:
    """Objects 1 and 2 are copies, 3 is not; patches are single pixels."""
    labels1 = torch.tensor([[[0, 1], [2, 3]]])
    labels2 = torch.tensor([[[1, 3], [2, 0]]])
    image = torch.zeros(1, 3, 2, 2)
    pair = Pair(View(image, labels=labels1), View(image, labels=labels2))
    copies = Copies.of(pair, torch.tensor([[0, 0, 2]]), 1)
    right = torch.zeros(4, 4, dtype=torch.bool)
    right[0, 1] = right[2, 2] = True  # object 1 is in patch 1 of view 1, and object 2 in patch 2
    wrong = torch.zeros(4, 4, dtype=torch.bool)
    wrong[0, 2] = wrong[2, 1] = True
    assert torch.equal(copies.right[0], right)
    assert torch.equal(copies.wrong[0], wrong)
    mass = torch.zeros(1, 4, 4)
    mass[0, 0] = torch.tensor([0.1, 0.6, 0.2, 0.1])
    mass[0, 2] = torch.tensor([0.0, 0.5, 0.5, 0.0])
    assert copies.preference(mass).item() == pytest.approx((0.75 + 0.5) / 2)


def test_a_pair_without_both_copies_in_sight_does_not_count() -> None:
    labels = torch.tensor([[[0, 1], [1, 3]]])
    image = torch.zeros(1, 3, 2, 2)
    pair = Pair(View(image, labels=labels), View(image, labels=labels))
    copies = Copies.of(pair, torch.tensor([[0, 0, 2]]), 1)
    assert copies.preference(torch.ones(1, 4, 4)).isnan().all()


def test_rooms_with_look_alikes_are_opened_by_name() -> None:
    source = open_pairs("lookalikes:test", Framing(64, "square", 8))
    assert isinstance(source, Rooms)
    assert source.lookalikes
    prototypes = source.prototypes(range(4))
    assert all(len(set(row[row >= 0])) < (row >= 0).sum() for row in prototypes.numpy())


def made(first: float, last: float, chance: float = 0.5) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for pair in range(40):
        rows.append((pair, "chance", "dec2.embed", chance))
        for block, level in enumerate((first, last)):
            noisy = level + 0.01 * draw.standard_normal()
            rows.append((pair, "attention", f"dec2.{block}.cross_attn", noisy))
            rows.append((pair, "features", f"dec2.{block}.mlp", noisy))
    return pd.DataFrame(rows, columns=["pair", "metric", "site", "value"])


@pytest.mark.parametrize(
    ("first", "last", "verdict"),
    [
        (0.5, 0.9, "supported"),
        (0.9, 0.9, "mixed"),
        (0.5, 0.5, "not supported"),
        (0.9, 0.7, "not supported"),
        (0.2, 0.4, "not supported"),
    ],
)
def test_the_verdict_follows_the_rule(first: float, last: float, verdict: str) -> None:
    (finding,) = LookAlikes().findings(made(first, last))
    assert finding.verdict == verdict
    assert finding.effect == pytest.approx(last - first, abs=0.01)


def test_every_block_and_site_is_measured() -> None:
    model = random(CONFIG, seed=1)
    pair = open_pairs("lookalikes:test", model).batch(range(6))
    with torch.no_grad():
        table = LookAlikes().measure(ModelUnderTest(model, "m"), pair)
    shares = table.value.dropna()
    assert ((shares >= 0) & (shares <= 1)).all()
    assert table[table.metric == "attention"].site.nunique() == 2
    assert table[table.metric == "features"].site.nunique() == 7
    attention = table[table.metric == "attention"].groupby("pair").value.mean().dropna()
    chance = table[table.metric == "chance"].set_index("pair").value.dropna()
    assert attention.index.equals(chance.index)
    assert (attention - chance).abs().mean() < 0.1  # random weights look at all copies alike


def test_the_figure_has_units() -> None:
    (drawn,) = LookAlikes().figures(made(0.5, 0.9)).values()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
