from typing import Any

import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.models.registry import digest
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation, Knockout, Skip, head_means
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import errors_of, sweep, sweep_heads
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.checks import every

MODEL = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 3, 2)
VARIANTS = {
    "late": [Skip("dec2.2.mlp")],
    "early": [Knockout("dec2.0.cross_attn", heads=[0])],
    "late too": [HeadAblation("dec2.2.cross_attn", heads=[1])],
    "view 1": [HeadAblation("dec1.2.cross_attn", heads=[1])],
    "encoder": [Skip("enc2.0.mlp")],
    "one pair": [Skip("dec2.1.mlp", scenes=[1])],
}


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(MODEL, seed=1)


@pytest.fixture(scope="module")
def rooms() -> Pair:
    return Rooms("test", (32, 32), compile=False).batch(range(3))


def naive(model: DUSt3R, pair: Pair) -> pd.DataFrame:
    """Every variant run from the start, on its own."""
    plain = trace(model, pair).output
    rows = []
    for name, edits in VARIANTS.items():
        run = trace(model, pair, edits=edits).output
        assert plain is not None
        assert run is not None
        values, clean = errors_of(run, pair, plain), errors_of(plain, pair, plain)
        rows += [
            {"variant": name, "pair": pair.names[i], "metric": metric, "value": v, "clean": c}
            for metric in values
            for i, (v, c) in enumerate(
                zip(values[metric].tolist(), clean[metric].tolist(), strict=True)
            )
        ]
    table = pd.DataFrame(rows)
    table["effect"] = table.value - table.clean
    return table


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["variant", "pair", "metric"], ignore_index=True)


@pytest.mark.parametrize("memory", [1, 300_000, 2**30])
def test_a_sweep_equals_the_naive_loop(model: DUSt3R, rooms: Pair, memory: int) -> None:
    done: list[int] = []
    table = sweep(model, rooms, VARIANTS, memory=memory, report=done.append)
    pd.testing.assert_frame_equal(
        ordered(table), ordered(naive(model, rooms)), rtol=1e-5, atol=1e-5, check_dtype=False
    )
    assert done[-1] == len(VARIANTS) * len(rooms)
    assert len(done) == {1: 6, 2**30: 6}.get(memory, len(done))


def test_batches_are_swept_one_after_the_other(model: DUSt3R, rooms: Pair) -> None:
    variants = {name: VARIANTS[name] for name in ("late", "early")}
    whole = sweep(model, rooms, variants)
    parts = sweep(model, [rooms[:2], rooms[2]], variants)
    pd.testing.assert_frame_equal(ordered(parts), ordered(whole), rtol=1e-4, atol=1e-4)


def test_metrics_of_ones_own(model: DUSt3R, rooms: Pair) -> None:
    def nearest(output: Prediction, pair: Pair, clean: Prediction) -> dict[str, torch.Tensor]:
        assert len(pair) == len(output.points[0]) == len(clean.points[0])
        return {"nearest": output.points[1][..., 2].amin((1, 2))}

    table = sweep(model, rooms, {"late": VARIANTS["late"]}, nearest)
    run = trace(model, rooms, edits=VARIANTS["late"]).output
    assert run is not None
    assert table.value.tolist() == pytest.approx(run.points[1][..., 2].amin((1, 2)).tolist())


def test_without_the_truth_the_clean_output_is_what_counts(model: DUSt3R, rooms: Pair) -> None:
    photographs = Pair(*(type(v)(v.image) for v in (rooms.view1, rooms.view2)))
    table = sweep(model, [photographs, photographs], {"late": VARIANTS["late"]})
    assert set(table.pair) == set(range(6))
    assert "translation_error" not in set(table.metric)
    assert table.pair.tolist()[:3] == [0, 1, 2]
    assert every(table[table.metric == "pointmap_error2"].value > 1e-3)
    assert table[table.metric == "rotation_error"].clean.max() < 0.1


def test_every_head_in_every_mode(model: DUSt3R, rooms: Pair) -> None:
    means = head_means(model, [rooms])
    modes = ("zero", "mean", "resample")
    table = sweep_heads(model, rooms, modes=modes, means=means)
    assert len(table) == len(modes) * 3 * 2 * len(rooms) * 7
    row = (table.site == "dec2.1.cross_attn") & (table["head"] == 1) & (table.metric == "pose_part")
    assert every(table[row].block == 1)
    source = trace(model, rooms, ["dec2.1.cross_attn.heads"])
    rolled = {site: record.roll(1, 0) for site, record in source.items()}
    for mode, given in (("zero", None), ("mean", means), ("resample", rolled)):
        edit = HeadAblation("dec2.1.cross_attn", mode=mode, heads=[1], source=given)
        run = trace(model, rooms, edits=[edit]).output
        assert run is not None
        expected = rooms.errors_of(run.points).pose_part
        found = table[row & (table["mode"] == mode)].value.tolist()
        assert found == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)


def test_a_sweep_reads_all_weights_as_often_for_many_heads_as_for_few(
    model: DUSt3R, rooms: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    means, hashed = head_means(model, [rooms]), list[int]()

    def counted(*described: Any) -> str:
        hashed.append(1)
        return digest(*described)

    monkeypatch.setattr("prob3r.models.registry.digest", counted)
    for pattern in ("dec2.1.cross_attn", "dec2.*"):
        hashed.clear()
        sweep_heads(model, rooms, pattern, modes=["mean"], means=means)
        assert 0 < len(hashed) <= 2  # for the check of all edits, and for the runs
    with pytest.raises(Prob3rError, match=r"belong to the model .*; give the means of this model"):
        sweep_heads(random(MODEL, seed=2), rooms, modes=["mean"], means=means)


def test_what_cannot_be_swept_is_refused_before_anything_runs(
    model: DUSt3R, rooms: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Replay, "__init__", never)
    wrong = {"fits": VARIANTS["late"], "does not": [Skip("dec2.2.mlp", scenes=[3])]}
    with pytest.raises(Prob3rError, match="names scene 3"):
        sweep(model, rooms, wrong)
    with pytest.raises(Prob3rError, match="at least two"):
        sweep_heads(model, rooms[0], modes=["resample"])
    with pytest.raises(Prob3rError, match="at least two scenes"):
        sweep_heads(model, rooms.named(scenes=["one"] * len(rooms)), modes=["resample"])
    with pytest.raises(Prob3rError, match="means of this model"):
        sweep_heads(model, rooms, modes=["mean"])
    with pytest.raises(Prob3rError, match="No site"):
        sweep_heads(model, rooms, "dec2.7.cross_attn")
    with pytest.raises(Prob3rError, match="nothing to sweep"):
        sweep(model, [], VARIANTS)
