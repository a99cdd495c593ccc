import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.geometry import norm_factor
from prob3r.measures.tokens import CHOSEN, COUNT, CUTS, MASS
from prob3r.measures.values import written
from prob3r.models.protocol import trunk
from prob3r.rooms import Rooms
from prob3r.runs.edits import Knockout
from prob3r.runs.trace import trace
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.sinks import AttentionSinks
from prob3r.studies.sinks.measured import (
    BROADCAST,
    CHANGE,
    CONTROL,
    KINDS,
    MODES,
    NO_OP,
    NO_OP_NORM,
    NONE,
    NORM,
    OUTPUT_SHARE,
    RANK,
)
from tests.models.examples import EXAMPLES

PAIRS, SINKS = 30, 12


def made(
    norms: tuple[float, float] = (0.05, 1.5),
    changes: tuple[float, float] = (0.0, 0.2),
    ranks: tuple[float, float] = (2.0, 8.0),
) -> pd.DataFrame:
    """Sinks of two value norms, the changes by removing them, and ranks with and without sinks."""
    draw, rows = np.random.default_rng(0), []
    own = draw.standard_normal((2, SINKS)) / 4
    keys = draw.standard_normal((2, SINKS)) / 4
    for pair in range(PAIRS):
        for i, kind in enumerate(KINDS):
            for sink in range(SINKS):
                about = {"pair": pair, "sublayer": "cross_attn", "block": i, "head": sink}
                for name, value in (
                    (kind, np.log(norms[i]) + own[i, sink]),
                    (CONTROL, keys[i, sink]),
                ):
                    rows.append({**about, "kind": name, "key": 3, "metric": NORM, "value": value})
                    rows.append(
                        {**about, "kind": name, "key": 3, "metric": OUTPUT_SHARE, "value": 0.1}
                    )
                for name, value, block in ((kind, ranks[0], i), (NONE, ranks[1], 2)):
                    value += (-1) ** pair / 10 * (name == kind)
                    more = {"block": block, "kind": name, "key": -1, "metric": RANK}
                    rows.append({**about, **more, "value": value})
            for mode in MODES:
                for cut in CUTS:
                    value = (changes[i] + 0.01 * (-1) ** pair) * (cut == CHOSEN)
                    about = {"pair": pair, "kind": kind, "mode": mode, "cut": cut}
                    rows.append({**about, "metric": CHANGE, "value": value})
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame) -> list[str]:
    return [found.verdict for found in AttentionSinks().findings(table)]


def test_what_holds_is_supported() -> None:
    found = AttentionSinks().findings(made())
    assert [f.verdict for f in found] == ["supported"] * 3
    assert found[0].effect == pytest.approx(np.log(1.5 / 0.05), abs=0.2)
    assert "12 no-op and 12 broadcast sinks" in found[0].statement
    assert found[1].effect == pytest.approx(-6, abs=0.1)
    assert found[2].effect == pytest.approx(0.2, abs=0.01)


def test_what_does_not_hold_is_not() -> None:
    assert verdicts(made((1.0, 1.0), (0.2, 0.0), (8.0, 2.0))) == ["not supported"] * 3


def test_half_of_what_was_claimed_leaves_it_open() -> None:
    both = made(changes=(0.2, 0.2), ranks=(8.0, 8.0))
    assert verdicts(both)[1:] == ["mixed", "mixed"]
    assert verdicts(made(changes=(0.0, 0.0)))[2] == "mixed"
    # Keys that are no sinks fall into two heaps as well.
    table = made()
    split = (table.kind == CONTROL) & (table.metric == NORM) & (table.block == 1)
    table.loc[split, "value"] += 4
    assert verdicts(table)[0] == "mixed"


def test_without_sinks_of_a_kind_nothing_can_be_told() -> None:
    table = made()
    found = AttentionSinks().findings(table[table.kind != BROADCAST])
    assert [f.verdict for f in found][1:] == ["mixed", "mixed"]
    assert all(np.isnan(f.effect) for f in found)
    alone = table[(table.metric == RANK) & (table.kind == NONE)].drop(columns=["mode", "cut"])
    assert verdicts(alone) == ["mixed"] * 3


@pytest.fixture
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.measures.tokens.SINK", 1.15)
    monkeypatch.setattr("prob3r.studies.sinks.SINK_PAIRS", 2)


@pytest.mark.usefixtures("_lenient")
@pytest.mark.parametrize("name", ["vggt", "pi3", "dust3r"])
def test_sinks_of_every_architecture_are_measured_and_removed(name: str) -> None:
    model, rooms = EXAMPLES[name](), Rooms("test", (28, 28), compile=False)
    study, tested = AttentionSinks(), ModelUnderTest(model, name)
    study.prepare(tested, rooms)
    assert study.known is not None
    assert study.known.kinds
    pair = rooms.batch([0, 1])
    with torch.no_grad():
        table = study.measure(tested, pair)
    found = written(model, pair, trunk(model).attention(2))
    for (site, head, key), kind in study.known.kinds.items():
        assert study.known.sinks.found[site][head, key]
        middle = found[site].norm[:, head, key].median()  # these two pairs are those of `prepare`
        assert kind == (NO_OP if middle < NO_OP_NORM else BROADCAST)
    for site, head, key in study.known.controls.values():
        assert not study.known.sinks.found[site][head, key]
    kind = next(iter(study.known.kinds.values()))
    keys = study.known.of_kind(kind)
    edits = [
        Knockout(site, mode="zero", heads=[head], keys=mask[head])
        for site, mask in keys.items()
        for head in mask.any(-1).nonzero()[:, 0].tolist()
    ]
    clean, cut = trace(model, pair).output, trace(model, pair, (), edits).output
    assert clean is not None
    assert cut is not None
    rows = table[(table.kind == kind) & (table["mode"] == "zero") & (table.metric == CHANGE)]
    own = torch.tensor(rows[rows.cut == CHOSEN].sort_values("pair").value.to_numpy(copy=True))
    moved = (cut.points[1] - clean.points[1]).norm(dim=-1).mean((1, 2))
    unit = norm_factor(clean.points, pair.valid)
    torch.testing.assert_close(own.float(), moved / unit, rtol=1e-3, atol=1e-6)
    assert set(rows.cut) <= {CHOSEN, COUNT, MASS}
    assert study.findings(table)


def test_a_model_without_sinks_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.measures.tokens.SINK", 50.0)
    monkeypatch.setattr("prob3r.studies.sinks.SINK_PAIRS", 2)
    rooms = Rooms("test", (28, 28), compile=False)
    study, tested = AttentionSinks(), ModelUnderTest(EXAMPLES["dust3r"](), "m")
    study.prepare(tested, rooms)
    with torch.no_grad():
        table = study.measure(tested, rooms.batch([0, 1]))
    assert set(table.kind) == {NONE}
    assert verdicts(table) == ["mixed"] * 3
    assert study.figures(table)


def test_the_figure_has_three_panels_with_units() -> None:
    (drawn,) = AttentionSinks().figures(made()).values()
    assert len(drawn.axes) == 3
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
