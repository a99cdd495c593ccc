from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.measures.curves import blocks_of, half_way, settled
from prob3r.measures.errors import METRICS
from prob3r.studies.refinement import Refinement

SITES = ["dec2.embed"] + [
    f"dec2.{block}.{sublayer}"
    for block in range(4)
    for sublayer in ("self_attn", "cross_attn", "mlp")
]
SETTLES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)  # in block 1
LATER = (1.0, 1.0, 1.0, 1.0, 0.8, 0.8, 0.6, 0.6, 0.4, 0.3, 0.3, 0.1, 0.1)  # in block 3
FLAT = (0.5,) * 13


def made(
    curves: dict[str, dict[str, Sequence[float]]], controls: Sequence[float] = (0.6, 0.7)
) -> pd.DataFrame:
    """Thirty easy and thirty hard pairs with given curves by stratum and metric, a bit of noise."""
    draw = np.random.default_rng(0)
    rows = []
    for stratum, first in (("easy", 0), ("hard", 30)):
        for metric in METRICS:
            curve = curves.get(stratum, {}).get(metric, SETTLES)
            for pair in range(first, first + 30):
                for site, value in zip(SITES, curve, strict=True):
                    noisy = value * (1 + 0.01 * draw.standard_normal())
                    rows.append(("model", pair, site, metric, noisy, first == 0, first == 30))
                for source, level in zip(("random", "encoder"), controls, strict=True):
                    noisy = level * (1 + 0.01 * draw.standard_normal())
                    rows.append((source, pair, SITES[-1], metric, noisy, first == 0, first == 30))
    names = ["source", "pair", "site", "metric", "value", "easy", "hard"]
    return pd.DataFrame(rows, columns=names).assign(view=2)


@pytest.mark.parametrize(
    ("curve", "kind", "block"),
    [
        (SETTLES, "half", 0),
        (SETTLES, "settled", 1),
        (LATER, "half", 2),
        (LATER, "settled", 3),
        (FLAT, "half", -1),
        (FLAT, "settled", -1),
        ((1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1), "settled", 3),
    ],
)
def test_the_block_at_which_a_curve_gets_there(
    curve: Sequence[float], kind: str, block: int
) -> None:
    place = {"half": half_way, "settled": settled}[kind](torch.tensor(curve))
    assert blocks_of(SITES)[place].item() == block


def test_a_model_that_refines_is_found_to() -> None:
    curves = {
        "easy": {"translation_error": LATER, "scale_error": LATER},
        "hard": {"rotation_error": LATER},
    }
    iterative, first, longer, *others = Refinement().findings(made(curves))
    assert [f.verdict for f in (iterative, first, longer)] == ["supported"] * 3
    assert "over 2 of 4 blocks" in iterative.statement
    assert iterative.effect == pytest.approx(-0.9, abs=0.05)
    assert first.effect == longer.effect == 2
    assert (iterative.pairs, first.pairs, longer.pairs) == (60, 30, 30)
    assert [f.verdict for f in others] == ["supported", "mixed"]  # all are under all tolerances


def test_a_model_that_does_not_is_found_not_to() -> None:
    flat = dict.fromkeys(METRICS, FLAT)
    curves = {
        "easy": flat | {"rotation_error": LATER, "translation_error": SETTLES},
        "hard": flat | {"rotation_error": SETTLES},
    }
    iterative, first, longer, *_ = Refinement().findings(made(curves))
    assert [f.verdict for f in (iterative, first, longer)] == ["not supported"] * 3


def test_a_control_as_good_as_the_model_leaves_the_claim_open() -> None:
    iterative, *_ = Refinement().findings(made({}, controls=(0.1, 0.7)))
    assert iterative.verdict == "mixed"
    assert "random 0.1" in iterative.control


@pytest.mark.parametrize("of", ["easy", "hard"])
def test_without_pairs_of_a_stratum_its_questions_are_left_open(of: str) -> None:
    table = made({})
    found = Refinement().findings(table[~table[of]])
    assert len(found) == len(Refinement().findings(table))
    (open_,) = (f for f in found if f.statement.startswith("On hard pairs"))
    assert (open_.verdict, open_.control) == ("mixed", f"no pair is {of}")
    assert np.isnan(open_.effect)


def test_there_is_a_panel_for_every_error() -> None:
    (drawn,) = Refinement().figures(made({})).values()
    labels = [axis.get_ylabel() for axis in drawn.axes]
    assert sum(bool(label) for label in labels) == len(METRICS)
    assert "rotation error (degrees)" in labels
