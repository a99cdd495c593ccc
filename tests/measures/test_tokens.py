from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.errors import Prob3rError
from prob3r.measures.tokens import (
    CHOSEN,
    COUNT,
    MASS,
    MarkedTokens,
    Sinks,
    attention_mass,
    is_outlier,
    is_sink,
    random_order,
    token_sites,
    with_controls,
)
from prob3r.models import DUSt3R, DUSt3RConfig, PosedDUSt3R, random
from prob3r.rooms import Rooms
from prob3r.runs.trace import Record, Trace, trace
from prob3r.scenes import Pair, View
from prob3r.scenes.source import Subset

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
PAIR = Rooms("test", (32, 32), compile=False).batch(range(2))


def test_a_sink_takes_more_than_five_times_its_share() -> None:
    mass = torch.full((2, 20), 0.02)
    mass[0, 3], mass[1, 7] = 0.26, 0.24  # a fifth of the keys' worth is 0.25
    assert is_sink(mass).nonzero().tolist() == [[0, 3]]


def test_an_outlier_is_three_robust_deviations_over_the_median() -> None:
    norms = torch.tensor([[9.0, 10.0, 11.0, 10.0, 14.4, 9.0, 11.0], [1.0] * 7])
    norms[0, 0] = 5.0  # far below, which is none
    assert norms[0].median() == 10  # and the median deviation is 1
    assert not is_outlier(norms).any()
    norms[0, 4] = 14.5
    assert is_outlier(norms).nonzero().tolist() == [[0, 4]]


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_controls_match_in_count_and_in_mass(seed: int, sinks: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mass = torch.rand((2, 3, 24), generator=generator).softmax(-1)
    chosen = torch.zeros(2, 3, 24, dtype=torch.bool)
    chosen[..., :sinks] = True
    free = torch.ones(2, 1, 24, dtype=torch.bool).expand(2, 3, 24).clone()
    free[..., 20:] = False
    cut = with_controls(chosen, free, mass, torch.rand((2, 3, 24), generator=generator))
    assert torch.equal(cut[CHOSEN], chosen)
    assert (cut[COUNT].sum(-1) == sinks).all()
    for control in (cut[COUNT], cut[MASS]):
        assert not (control & (chosen | ~free)).any()
    wanted, got = ((mass * keys).sum(-1) for keys in (chosen, cut[MASS]))
    assert (got >= wanted - 1e-6).all()
    # Without its heaviest key it would fall short.
    assert (got - (mass * cut[MASS]).amax(-1) < wanted).all()


def test_a_control_takes_all_that_is_left_where_that_is_too_little() -> None:
    mass = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    chosen = torch.tensor([[True, False, False, False]])
    free = torch.tensor([[True, True, True, False]])
    cut = with_controls(chosen, free, mass, torch.tensor([[0.0, 0.9, 0.1, 0.5]]))
    assert cut[COUNT].tolist() == [[False, False, True, False]]
    assert cut[MASS].tolist() == [[False, True, True, False]]
    nothing = torch.zeros_like(chosen)
    none = with_controls(nothing, free, mass, torch.rand(1, 4))
    assert not torch.stack(list(none.values())).any()


def test_the_order_depends_on_the_pairs_name_alone() -> None:
    image = torch.zeros(3, 3, 8, 8)
    pair = Pair(View(image), View(image), ("a", "b", "c"))
    order = random_order(pair, "dec2.0.self_attn", (2, 5))
    assert torch.equal(random_order(pair[[2, 0]], "dec2.0.self_attn", (2, 5)), order[[2, 0]])
    assert not torch.equal(random_order(pair, "dec2.1.self_attn", (2, 5)), order)


def test_sinks_are_those_of_the_mean_over_pairs() -> None:
    model = random(CONFIG, seed=1)
    rooms = Subset(Rooms("test", (32, 32), compile=False), range(5))
    sinks = Sinks.find(model, rooms, 4, 3)
    run = trace(model, rooms.batch(range(4)), "dec2.*.mass", output=False)
    for site, mass in sinks.mass.items():
        assert torch.allclose(mass, run[f"{site}.mass"].mean(0), atol=1e-6)
        assert torch.allclose(mass.sum(-1), torch.ones(2), atol=1e-5)
    assert len(sinks.mass) == 4
    assert not sinks  # random weights look everywhere alike
    top = sinks.strongest["dec2.1.self_attn"]
    assert (top.sum(-1) == 1).all()


def made_run(model: DUSt3R) -> tuple[Trace, Sinks]:
    """Even attention and even norms, with one sink, one norm and one pair's favourite planted."""
    run = trace(model, PAIR, token_sites(model), output=False)
    records = {}
    for name, record in run.items():
        plain = torch.ones_like(torch.Tensor(record)) / record.shape[-1]
        if name == "dec2.1.mlp":
            plain[1, 6] *= 9
        if name == "dec2.0.self_attn.mass":
            plain[0, :, 3] *= 6
        records[name] = Record.of(plain, name, record.grid, record.tokens)
    mass = {
        name.removesuffix(".mass"): torch.full(r.shape[1:], 1 / r.shape[-1])
        for name, r in records.items()
        if name.startswith("dec2.") and name.endswith(".mass")
    }
    mass["dec2.1.cross_attn"][1, 4] *= 6
    mass["dec2.0.self_attn"][0, 2] *= 6
    return Trace(records), Sinks(mass)


def test_marked_tokens_are_sinks_high_norms_and_special_tokens() -> None:
    model = PosedDUSt3R.from_twin(random(CONFIG, seed=1)).eval()
    run, sinks = made_run(model)
    assert sinks
    marked = MarkedTokens.of(model, PAIR, run, sinks)
    assert marked.view1.shape == (2, 16)
    assert marked.view2.shape == (2, 17)
    assert marked.view1.nonzero().tolist() == [[0, 4], [1, 4]]
    assert marked.view2.nonzero().tolist() == [[0, 2], [0, 3], [0, 16], [1, 2], [1, 6], [1, 16]]
    twin = random(CONFIG, seed=1)
    run, sinks = made_run(twin)
    assert MarkedTokens.of(twin, PAIR, run, sinks).view2.sum() == 4


def test_what_a_view_receives_is_the_mean_over_what_looks_at_it() -> None:
    model = random(CONFIG, seed=1)
    run, _ = made_run(model)
    assert torch.allclose(attention_mass(model, PAIR, run, 1), torch.full((2, 16), 1 / 16))
    # Token 3 takes 6 times its share in one of four sublayers that see view 2, in the first pair.
    assert attention_mass(model, PAIR, run, 2)[0, 3].item() == pytest.approx((6 + 3) / 4 / 16)


def test_pairs_of_several_sizes_are_refused() -> None:
    model = random(CONFIG, seed=1)
    run, sinks = made_run(model)
    other = replace(sinks, mass={s: r[:, :12] for s, r in sinks.mass.items()})
    with pytest.raises(Prob3rError, match="one size"):
        MarkedTokens.of(model, PAIR, run, other)
