import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.measures.heads import MEAN, correspondence_heads, head_matches
from prob3r.models import DUSt3RConfig, random
from prob3r.probes import ProbeBank
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies.correspondence import Correspondence
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.training.probes import bank_for

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
BLOCKS, PAIRS = 4, 40


def made(
    matching: dict[tuple[int, str], float],
    effects: dict[tuple[str, int], float],
    together: bool = True,
) -> pd.DataFrame:
    """Heads of given PCK@1, interventions of given effects; geometry that follows or not."""
    draw = np.random.default_rng(0)
    rows = []
    for pair in range(PAIRS):
        steps = draw.random(BLOCKS)
        errors = 1 - np.cumsum(steps if together else draw.random(BLOCKS)) / BLOCKS
        for block in range(BLOCKS):
            for head in ("0", "1", MEAN):
                value = matching.get((block, head), 0.1) + 0.01 * draw.standard_normal()
                if head == MEAN:
                    value = np.cumsum(steps)[block] / BLOCKS
                rows.append(("model", pair, block, head, None, "pck@1", value))
                value = 0.1 + 0.01 * draw.standard_normal()
                rows.append(("shuffled", pair, block, head, None, "pck@1", value))
            site = f"dec2.{block}.mlp"
            rows.append(("model", pair, None, None, site, "pointmap_error", errors[block]))
            for what in ("features", "points"):
                rows.append(("model", pair, None, None, site, f"pck@1 of {what}", 0.5))
            for kind in ("oracle", "scrambled"):
                value = effects.get((kind, block), 0.0) + 0.1 * draw.standard_normal()
                rows.append((kind, pair, block, None, None, "effect on rotation_error", value))
    return pd.DataFrame(
        rows, columns=["source", "pair", "block", "head", "site", "metric", "value"]
    )


def test_correspondence_heads_are_those_their_control_never_reaches() -> None:
    table = made({(0, "1"): 0.6, (2, "0"): 0.4, (3, "1"): 0.1}, {})
    assert correspondence_heads(table) == [(0, "1"), (2, "0")]


def test_what_holds_is_supported() -> None:
    table = made({(0, "1"): 0.6, (2, "0"): 0.4}, {("scrambled", 2): 5.0, ("oracle", 2): -1.0})
    aligned, together, rests = Correspondence().findings(table)
    assert [f.verdict for f in (aligned, together, rests)] == ["supported"] * 3
    assert "2 correspondence heads, in 2 of 4 blocks" in aligned.statement
    assert "block 2" in rests.statement
    assert rests.effect == pytest.approx(6, abs=0.1)


def test_what_does_not_hold_is_not() -> None:
    aligned, together, rests = Correspondence().findings(made({}, {}, together=False))
    assert aligned.verdict == "not supported"
    assert together.verdict == "mixed"
    assert rests.verdict == "not supported"


def test_oracle_matches_that_hurt_leave_the_claim_open() -> None:
    table = made({}, {("scrambled", 1): 9.0, ("oracle", 1): 4.0})
    assert Correspondence().findings(table)[2].verdict == "mixed"


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    model = random(CONFIG, seed=1)
    bank: ProbeBank = bank_for(model, "linear")[1]
    rooms: Pair = Rooms("test", (32, 32), compile=False).batch(range(3))
    with torch.no_grad():
        return Correspondence().measure(ModelUnderTest(model, "m", {"mlp": bank}), rooms)


def test_every_head_site_and_block_is_measured(measured: pd.DataFrame) -> None:
    for source in ("model", "shuffled"):
        heads, values = head_matches(measured, source)
        assert heads == [(b, h) for b in range(2) for h in ("0", "1", MEAN)]
        assert values.shape == (3, 6)
        assert ((values >= 0) & (values <= 1)).all()
    features = measured[measured.metric == "pck@1 of features"]
    assert features.site.nunique() == 7
    effects = measured[measured.metric == "effect on rotation_error"]
    assert set(zip(effects.source, effects.block, strict=True)) == {
        (kind, block) for kind in ("oracle", "scrambled") for block in range(2)
    }


def test_the_figure_has_three_panels_with_units() -> None:
    (drawn,) = Correspondence().figures(made({(0, "1"): 0.6}, {})).values()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
    assert len(drawn.axes) == 3
