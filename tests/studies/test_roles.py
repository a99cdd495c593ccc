import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from prob3r.data import Pair
from prob3r.data.rooms import Rooms
from prob3r.geometry import normalise
from prob3r.studies.roles import KINDS, Field, Roles, fields
from prob3r.studies.sites import METRICS


@pytest.fixture(scope="module")
def room() -> Pair:
    return Rooms("test", (32, 32), compile=False).batch([0, 1])


def test_a_rigid_motion_explains_itself_and_noise_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 400, 3, generator=generator)
    known = torch.ones(2, 400, dtype=torch.bool)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    rigid = Field(start, start @ turn.T + torch.tensor([1.0, 2, 3]) - start, start, known)
    assert rigid.rigid_share().tolist() == pytest.approx([1, 1], abs=1e-4)
    noise = Field(start, torch.randn(2, 400, 3, generator=generator), start, known)
    assert (noise.rigid_share() < 0.2).all()


def test_a_field_towards_the_truth_and_one_away_from_it() -> None:
    start = torch.zeros(1, 3, 3)
    target = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]])
    known = torch.tensor([[True, True, False]])
    every = torch.ones(1, 3, dtype=torch.bool)
    near = Field(start, target / 2, target, known)
    assert near.alignment(every).item() == pytest.approx(1)
    assert near.approach(every).item() == pytest.approx(-0.75)  # of 0.5 and 1; the third is unknown
    assert near.size(every).item() == pytest.approx(0.75)
    away = Field(start, -target, target, known)
    assert away.alignment(every).item() == pytest.approx(-1)
    only = torch.tensor([[True, False, False]])
    assert away.approach(only).item() == pytest.approx(1)
    assert near.size(torch.zeros(1, 3, dtype=torch.bool)).isnan().all()


def test_the_fields_of_a_model_that_steps_to_the_truth(room: Pair) -> None:
    _, truth = normalise(room.points, room.valid)
    points: dict[str, Tensor] = {
        "dec1.embed": truth,
        "dec2.embed": torch.zeros_like(truth),
        "dec2.0.self_attn": truth / 2,
        "dec2.0.cross_attn": truth,
        "dec2.0.mlp": truth,
    }
    found = fields(points, room, 8)
    assert list(found) == ["dec2.0.self_attn", "dec2.0.cross_attn", "dec2.0.mlp"]
    every = torch.ones(2, 16, dtype=torch.bool)
    for site in ("dec2.0.self_attn", "dec2.0.cross_attn"):
        assert (found[site].alignment(every) > 0.97).all(), site
        assert (found[site].approach(every) < 0).all()
    torch.testing.assert_close(found["dec2.0.mlp"].size(every), torch.zeros(2))


def made(values: dict[tuple[str, str], float], shuffled: float = 0.0) -> pd.DataFrame:
    """Forty pairs, two blocks, with given metrics by kind of sublayer, and a bit of noise."""
    draw = np.random.default_rng(0)
    names = [f"effect on {metric}" for metric in METRICS]
    names += [f"{what}, {w}" for what in ("size", "alignment", "approach") for w in WHERE]
    rows = []
    for kind in KINDS:
        for metric in names:
            for pair in range(40):
                for block in range(2):
                    noise = 0.01 * draw.standard_normal()
                    value = values.get((kind, metric), 0.0) + noise
                    rows.append(("model", pair, block, kind, metric, value))
                    rows.append(("shuffled", pair, block, kind, metric, shuffled + noise))
    return pd.DataFrame(rows, columns=["source", "pair", "block", "kind", "metric", "value"])


WHERE = ("co-visible", "other")
TRUE = {
    ("cross_attn", "alignment, co-visible"): 0.4,
    ("self_attn", "effect on inner_shape_error"): -0.1,
    ("cross_attn", "effect on inner_shape_error"): 0.1,
    ("self_attn", "effect on pointmap_error"): -0.2,
    ("self_attn", "approach, other"): -0.3,
    ("self_attn", "approach, co-visible"): -0.1,
}
FALSE = {
    ("cross_attn", "alignment, co-visible"): -0.1,
    ("self_attn", "effect on inner_shape_error"): 0.1,
    ("cross_attn", "effect on pointmap_error"): -0.2,
    ("self_attn", "approach, other"): -0.1,
    ("self_attn", "approach, co-visible"): -0.3,
}


def test_roles_that_are_there_are_found() -> None:
    findings = Roles().findings(made(TRUE))
    assert [f.verdict for f in findings] == ["supported"] * 4
    assert findings[0].effect == pytest.approx(0.4, abs=0.01)
    assert findings[1].effect == pytest.approx(-0.2, abs=0.02)  # over two blocks
    assert findings[2].effect == pytest.approx(-0.4, abs=0.02)


def test_roles_that_are_not_there_are_not() -> None:
    assert [f.verdict for f in Roles().findings(made(FALSE))] == ["not supported"] * 4


def test_movement_that_needs_no_match_is_no_evidence() -> None:
    first, *_ = Roles().findings(made(TRUE, shuffled=0.5))
    assert first.verdict == "mixed"


def test_the_figures_have_units() -> None:
    effects, moves = Roles().figures(made(TRUE)).values()
    assert len(effects.axes) == len(METRICS)
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in moves.axes)
