import numpy as np
import pandas as pd
import pytest

from prob3r.measures.attention import PEAKS
from prob3r.measures.heads import (
    MEAN,
    correspondence_heads,
    head_matches,
    head_table,
    match_accuracy,
    match_sites,
)
from prob3r.models import DUSt3R
from prob3r.runs.trace import trace
from prob3r.scenes import Pair


def made(model: dict[str, float], shuffled: dict[str, float]) -> pd.DataFrame:
    """Heads of block 0 whose PCK@1 lies within 0.1 of what is given, over 30 pairs."""
    around = np.random.default_rng(0).uniform(-0.1, 0.1, 30)
    parts = []
    for source, places in (("model", model), ("shuffled", shuffled)):
        for head, place in places.items():
            about = {"source": source, "block": 0, "head": head, "metric": "pck@1"}
            parts.append(pd.DataFrame(about | {"pair": range(30), "value": place + around}))
    return pd.concat(parts, ignore_index=True)


def test_a_correspondence_head_is_above_all_that_its_own_control_reaches() -> None:
    table = made({"0": 0.5, "1": 0.5, MEAN: 0.9}, {"1": 0.45, MEAN: 0.1, "0": 0.2})
    found = match_accuracy(table)
    assert found.heads == [(0, "0"), (0, "1")]
    assert (found.low < found.middle).all()
    assert found.control[0] == pytest.approx(0.2, abs=0.1)
    assert found.control[1] == pytest.approx(0.45, abs=0.1)
    assert correspondence_heads(table) == [(0, "0")]


def test_every_head_stands_beside_the_mean_of_its_block(model: DUSt3R, rooms: Pair) -> None:
    patch = model.config.patch
    run = trace(model, rooms, match_sites(model), output=False, reductions=PEAKS)
    table = head_table(run, model, rooms, rooms.patch_matches(patch), "model")
    heads, values = head_matches(table)
    assert heads == [(block, head) for block in range(2) for head in ("0", "1", MEAN)]
    assert values.shape == (len(rooms), 6)
