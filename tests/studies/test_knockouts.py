from dataclasses import replace

import pytest
import torch

from prob3r.measures.tokens import CHOSEN, CUTS, MASS, MarkedTokens, Sinks, token_sites
from prob3r.models import DUSt3R, DUSt3RConfig, PosedDUSt3R, random
from prob3r.rooms import Rooms
from prob3r.runs.edits import Knockout
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from prob3r.scenes.source import Subset
from prob3r.studies.pose.knockouts import (
    ALL,
    BLOCK,
    HEAD,
    ISOLATED,
    MASK,
    OUTPUTS,
    REST,
    STRENGTH,
    SinksAndMeans,
    Variant,
    isolations,
    knock_out,
)
from tests.checks import every

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Rooms("test", (32, 32), compile=False).batch(range(2))


@pytest.fixture(scope="module")
def posed() -> DUSt3R:
    return PosedDUSt3R.from_twin(random(CONFIG, seed=1)).eval()


def known(model: DUSt3R, each: bool = True) -> SinksAndMeans:
    return SinksAndMeans.of(
        model, Subset(Rooms("test", (32, 32), compile=False), range(2)), 2, 2, each
    )


def with_sinks(found: SinksAndMeans) -> SinksAndMeans:
    """Declare one key of a self-attention head and two of a cross-attention head sinks."""
    mass = {site: 0 * keys for site, keys in found.sinks.mass.items()}
    mass["dec2.0.self_attn"][1, 5] = 1
    mass["dec2.1.cross_attn"][0, [2, 3]] = 1
    return replace(found, sinks=Sinks(mass))


def test_every_scope_is_cut_with_its_controls(posed: DUSt3R, pair: Pair) -> None:
    table = knock_out(posed, pair, with_sinks(known(posed)))
    assert set(table.metric) == {
        "rotation_error",
        "translation_error",
        "shape_error",
        "pointmap_error",
        "times its uniform share",
    }
    rotation = table[table.metric == "rotation_error"]
    for scope, mode in [
        (s, m) for s in (HEAD, BLOCK, ALL, REST, ISOLATED) for m in ("mask", "zero")
    ]:
        rows = rotation[(rotation.scope == scope) & (rotation["mode"] == mode)]
        assert set(rows.cut) == set(CUTS)
    heads = rotation[(rotation.scope == HEAD) & (rotation.cut == CHOSEN)]
    assert set(zip(heads.sublayer, heads.block, heads["head"], heads.tokens, strict=True)) == {
        ("self_attn", 0, 1, 1),
        ("cross_attn", 1, 0, 2),
    }
    whole = rotation[(rotation.scope == ALL) & (rotation["mode"] == MASK)]
    assert every(whole[whole.cut == "count"].tokens == 3)
    mass = whole.pivot(index="pair", columns="cut", values="mass")
    assert (mass[MASS] >= mass[CHOSEN] - 1e-6).all()
    outputs = rotation[rotation.scope == OUTPUTS]
    assert set(outputs["mode"]) == {"zero", "mean", "resample"}
    assert len(outputs) == 2 * 2 * 2 * 3
    strengths = table[table.scope == STRENGTH]
    assert strengths.drop_duplicates(["sublayer", "block", "head"]).sinks.sum() == 2


def test_a_cut_of_sinks_is_the_knockout_of_these_keys(posed: DUSt3R, pair: Pair) -> None:
    table = knock_out(posed, pair, with_sinks(known(posed)))
    edits = {
        "cut": [
            Knockout("dec2.0.self_attn", heads=[1], keys=[5]),
            Knockout("dec2.1.cross_attn", heads=[0], keys=[2, 3]),
        ],
        "kept": [
            Knockout("dec2.0.self_attn", heads=[1], keys=[k for k in range(17) if k != 5]),
            Knockout(
                "dec2.1.cross_attn", heads=[0], keys=[k for k in range(16) if k not in (2, 3)]
            ),
        ],
    }
    wanted = sweep(posed, pair.named(()), edits)
    for name, scope in (("cut", ALL), ("kept", REST)):
        rows = table[(table.scope == scope) & (table["mode"] == MASK) & (table.cut == CHOSEN)]
        rows = rows[rows.metric == "rotation_error"]
        expected = wanted[(wanted.variant == name) & (wanted.metric == "rotation_error")]
        assert rows.value.to_numpy() == pytest.approx(expected.effect.to_numpy(), abs=1e-3)


def test_an_isolated_camera_token_might_as_well_not_be_there(posed: DUSt3R, pair: Pair) -> None:
    marked = MarkedTokens(torch.zeros(2, 16).bool(), torch.arange(17).expand(2, 17) == 16)
    run = trace(posed, pair, token_sites(posed), output=False)
    cut = isolations(posed, run, pair, marked)[Variant(ISOLATED, MASK, CHOSEN)]
    assert cut.tokens.tolist() == [1, 1]
    streams = trace(posed, pair, "dec?.*", cut.edits, output=False)
    plain = trace(random(CONFIG, seed=1), pair, "dec?.*", output=False)
    for site, stream in plain.items():
        assert torch.allclose(streams[site][:, :16], stream, atol=1e-5)
    alone = streams["dec2.1.mlp"][:, 16]  # which is the same whatever the pair
    assert torch.allclose(alone[0], alone[1], atol=1e-6)
    assert not torch.allclose(run["dec2.1.mlp"][0, 16], run["dec2.1.mlp"][1, 16], atol=1e-3)


def test_a_control_is_cut_by_large_and_not_one_by_one(posed: DUSt3R, pair: Pair) -> None:
    table = knock_out(posed, pair, known(posed, each=False))
    assert set(table.scope) == {ALL, REST, ISOLATED, STRENGTH}
    assert every(table[table.scope == ISOLATED].tokens >= 1)


def test_where_there_is_nothing_to_cut_the_strongest_keys_stand_in(pair: Pair) -> None:
    model = random(CONFIG, seed=1)
    table = knock_out(model, pair, known(model))
    assert not table.sinks.any()
    cut = table[(table.scope == HEAD) & (table.metric == "rotation_error")]
    assert len(cut) == 2 * 8 * 3  # two pairs, eight heads, three cuts, one mode
    assert set(cut["mode"]) == {MASK}
    assert every(cut[cut.cut == CHOSEN].tokens == 1)


def test_a_lone_pair_has_no_other_to_take_outputs_from(pair: Pair) -> None:
    model = random(CONFIG, seed=1)
    table = knock_out(model, pair[[0]], known(model))
    assert set(table[table.scope == OUTPUTS]["mode"]) == {"zero", "mean"}
    both = knock_out(model, pair, known(model))
    same = ["scope", "mode", "cut", "sublayer", "block", "head", "metric"]
    joined = table.merge(both[both.pair == 0], on=same)
    joined = joined[joined.cut != ""]
    assert joined.value_x.to_numpy() == pytest.approx(
        joined.value_y.to_numpy(), abs=1e-3, nan_ok=True
    )


def test_controls_are_the_same_each_time(pair: Pair) -> None:
    model = random(CONFIG, seed=1)
    found = known(model, each=False)
    first = knock_out(model, pair, found)
    torch.rand(1)
    assert first.equals(knock_out(model, pair, found))
