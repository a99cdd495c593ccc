import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.quiver import Quiver

from prob3r.measures.errors import METRICS
from prob3r.measures.strata import strata
from prob3r.models import DUSt3RConfig, random
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.scenes.source import Subset
from prob3r.studies import ModelUnderTest
from prob3r.studies.roles import Roles


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("test", (32, 32), compile=False)


@pytest.fixture(scope="module")
def tested() -> ModelUnderTest:
    model = random(DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 4, 2))
    bank = ProbeBank([s for s in model.sites() if s.startswith("dec")], ProbeConfig(16, 8, 1))
    return ModelUnderTest(model, "m", {"mlp": bank})


def made(values: dict[tuple[str, str], float], shuffled: float = 0.0) -> pd.DataFrame:
    """Forty pairs, two blocks, with given metrics by kind of sublayer, and a bit of noise."""
    draw = np.random.default_rng(0)
    names = [f"effect on {metric}" for metric in METRICS]
    names += [f"{what}, {w}" for what in ("size", "alignment", "approach") for w in WHERE]
    rows = []
    for kind in ("self_attn", "cross_attn", "mlp"):
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
    ("self_attn", "effect on shape_error"): -0.1,
    ("cross_attn", "effect on shape_error"): 0.1,
    ("self_attn", "effect on pointmap_error"): -0.2,
    ("self_attn", "approach, other"): -0.3,
    ("self_attn", "approach, co-visible"): -0.1,
}
FALSE = {
    ("cross_attn", "alignment, co-visible"): -0.1,
    ("self_attn", "effect on shape_error"): 0.1,
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


def test_the_first_hard_pair_is_shown_as_arrows(tested: ModelUnderTest, rooms: Rooms) -> None:
    study = Roles()
    study.illustrate(tested, rooms)
    hard = strata(rooms.batch(range(16)))[1].tolist()
    assert study.example is not None
    assert study.example.words == f"rooms/test/{hard.index(True)} (a hard pair)"
    drawn = study.figures(made(TRUE))["arrows"]
    titles = [axis.get_title() for axis in drawn.axes]
    assert titles[0] == "block 0, self-attention"
    assert titles[-1] == "block 3, MLP"
    assert len(titles) == 9
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in drawn.axes}
    assert len(limits) == 1


def test_every_patch_has_one_arrow_as_long_as_its_move(
    tested: ModelUnderTest, rooms: Rooms
) -> None:
    study = Roles()
    study.illustrate(tested, rooms)
    assert study.example is not None
    axis = study.figures(made(TRUE))["arrows"].axes[0]
    quivers = [each for each in axis.collections if isinstance(each, Quiver)]
    assert sum(len(each.U) for each in quivers) == 16
    field = study.example.fields["dec2.0.self_attn"]
    expected = torch.cat([field.move[~study.example.seen], field.move[study.example.seen]])
    assert [u for each in quivers for u in each.U] == pytest.approx(expected[:, 0].tolist())


def test_without_a_hard_pair_the_first_is_shown(tested: ModelUnderTest, rooms: Rooms) -> None:
    easy = [i for i, is_hard in enumerate(strata(rooms.batch(range(16)))[1]) if not is_hard]
    study = Roles()
    study.illustrate(tested, Subset(rooms, easy[:2]))
    assert study.example is not None
    assert study.example.words == f"rooms/test/{easy[0]} (not a hard pair)"


def test_a_table_alone_has_no_arrows() -> None:
    assert set(Roles().figures(made(TRUE))) == {"effects", "fields"}
