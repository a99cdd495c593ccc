from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, Prediction
from prob3r.models.sites import Site, Tap
from prob3r.runs.edits import Knockout
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.runs.edits.conftest import Explicit, at, close, flat, identical

Run = Callable[[Tap], Prediction]
SITES = ("enc1.0.self_attn", "dec1.0.cross_attn", "dec2.0.self_attn", "dec2.1.cross_attn")
PATCHES = {1: 16, 2: 6}


def lengths(site: str) -> tuple[int, int]:
    """How many queries and keys an attention sublayer has."""
    parsed = Site.parse(site)
    other = 3 - parsed.view if parsed.sublayer == "cross_attn" else parsed.view
    return PATCHES[parsed.view], PATCHES[other]


def edges(shape: torch.Size, pairs: list[int], heads: list[int], q: Tensor, k: Tensor) -> Tensor:
    """Which edges are cut, one by one."""
    cut = torch.zeros(shape, dtype=torch.bool)
    for b in pairs:
        for h in heads:
            for i in q.tolist():
                for j in k.tolist():
                    cut[b, h, i, j] = True
    return cut


@st.composite
def knockouts(draw: st.DrawFn) -> tuple[str, list[int], list[int], list[int], list[int]]:
    site = draw(st.sampled_from(SITES))
    n, m = lengths(site)

    def some(count: int, most: int) -> list[int]:
        return draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=most, unique=True))

    return site, some(2, 2), some(2, 2), some(n, n), some(m, m - 1)


@settings(max_examples=25, deadline=None)
@given(cut=knockouts(), mode=st.sampled_from(["mask", "zero"]))
def test_knockouts_equal_explicit_attention(
    model: DUSt3R,
    pair: Pair,
    reference: Run,
    cut: tuple[str, list[int], list[int], list[int], list[int]],
    mode: str,
) -> None:
    site, pairs, heads, queries, keys = cut

    def masked(logits: Tensor) -> Tensor:
        where = edges(logits.shape, pairs, heads, torch.tensor(queries), torch.tensor(keys))
        return logits.masked_fill(where, -torch.inf if mode == "mask" else 0.0)

    change = at(f"{site}.probs", masked)
    expected = reference(Explicit(logits=change) if mode == "mask" else Explicit(probs=change))
    edit = Knockout(site, mode=mode, heads=heads, queries=queries, keys=keys, scenes=pairs)
    close(trace(model, pair, edits=[edit]).output, expected)


def test_masks_say_the_same_as_indices(model: DUSt3R, pair: Pair) -> None:
    by_index = Knockout("dec2.1.cross_attn", heads=[1], keys=[0, 3, 7], queries=[2])
    keys = torch.zeros(16, dtype=torch.bool)
    keys[[0, 3, 7]] = True
    queries = torch.zeros(1, 1, 6, dtype=torch.bool)
    queries[..., 2] = True
    by_mask = Knockout("dec2.1.cross_attn", heads=[1], keys=keys, queries=queries)
    as_tensor = Knockout(
        "dec2.1.cross_attn.probs", heads=[1], keys=torch.tensor([7, 0, 3]), queries=[2]
    )
    runs = [trace(model, pair, edits=[edit]).output for edit in (by_index, by_mask, as_tensor)]
    assert identical(runs[0], runs[1])
    assert identical(runs[0], runs[2])


def test_each_pair_and_head_may_have_keys_of_its_own(model: DUSt3R, pair: Pair) -> None:
    keys = torch.zeros(2, 2, 16, dtype=torch.bool)
    keys[0, 0, 3] = keys[0, 1, 4] = keys[1, 0, 5] = keys[1, 1, 6] = True
    together = trace(model, pair, edits=[Knockout("dec2.0.cross_attn", keys=keys)]).output
    single = [
        Knockout("dec2.0.cross_attn", keys=[3 + 2 * b + h], heads=[h], scenes=[b])
        for b in range(2)
        for h in range(2)
    ]
    close(together, trace(model, pair, edits=single).output)


def test_what_is_left_sums_to_one_when_masked_and_to_less_when_zeroed(
    model: DUSt3R, pair: Pair
) -> None:
    site = "dec2.0.cross_attn"
    plain = trace(model, pair, [f"{site}.probs"])[f"{site}.probs"]
    for mode in ("mask", "zero"):
        edit = Knockout(site, mode=mode, heads=[1], keys=[2, 3])
        probs = trace(model, pair, [f"{site}.probs"], [edit])[f"{site}.probs"]
        assert torch.equal(probs[:, 0], plain[:, 0])
        assert (probs[:, 1][..., 2:4] == 0).all()
        left = 1 - plain[:, 1][..., 2:4].sum(-1)
        expected = torch.ones_like(left) if mode == "mask" else left
        torch.testing.assert_close(probs[:, 1].sum(-1), expected)


def test_a_query_that_keeps_no_key_gets_nothing_from_that_head(
    model: DUSt3R, pair: Pair, reference: Run
) -> None:
    def silence(heads: Tensor) -> Tensor:
        heads[:, 1, 4] = 0
        return heads

    edit = Knockout("dec2.1.cross_attn", heads=[1], queries=[4])
    expected = reference(Explicit(heads=at("dec2.1.cross_attn.probs", silence)))
    close(trace(model, pair, edits=[edit]).output, expected)


@pytest.mark.parametrize(
    ("earlier", "site"),
    [
        ("dec2.1.self_attn", "dec2.1.cross_attn"),
        ("dec1.embed", "dec1.0.self_attn"),
        ("enc2.embed", "enc2.0.self_attn"),
    ],
)
def test_where_no_head_keeps_a_key_the_sublayer_adds_nothing(
    model: DUSt3R, pair: Pair, earlier: str, site: str
) -> None:
    cut = trace(model, pair, [site, earlier], [Knockout(site, queries=[1, 3], scenes=[1])])
    assert all(t.isfinite().all() for t in flat(cut.output))
    assert torch.equal(cut[site][1, [1, 3]], cut[earlier][1, [1, 3]])
    assert not torch.equal(cut[site][1, 2], cut[earlier][1, 2])
    assert not torch.equal(cut[site][0, 1], cut[earlier][0, 1])
    probs = trace(model, pair, [f"{site}.probs"], [Knockout(site)])[f"{site}.probs"]
    assert (probs == 0).all()


def test_two_knockouts_of_one_head_add_up(model: DUSt3R, pair: Pair) -> None:
    site = "dec2.0.cross_attn"
    both = [Knockout(site, keys=[1, 2]), Knockout(site, keys=[2, 5], heads=[0])]
    one = [Knockout(site, keys=[1, 2, 5], heads=[0]), Knockout(site, keys=[1, 2], heads=[1])]
    close(trace(model, pair, edits=both).output, trace(model, pair, edits=one).output)


def test_pairs_that_no_edit_concerns_are_left_to_the_bit(
    model: DUSt3R, pair: Pair, clean: Prediction
) -> None:
    run = trace(model, pair, edits=[Knockout("dec?.*", keys=[0], scenes=[1])]).output
    for cut, plain in zip(flat(run), flat(clean), strict=True):
        assert torch.equal(cut[0], plain[0])
        assert not torch.equal(cut[1], plain[1])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Knockout("dec2.*.cross_attn", heads=[2]), "names head 2; heads count from 0 to 1"),
        (Knockout("dec2.0.cross_attn", heads=[]), "names no head and changes nothing"),
        (Knockout("dec2.0.cross_attn", heads=[0, 0]), "names a head twice"),
        (Knockout("dec2.0.cross_attn", keys=[16]), "names token 16; tokens count from 0 to 15"),
        (Knockout("dec2.0.cross_attn", keys=[]), "changes nothing"),
        (Knockout("dec2.0.cross_attn", queries=[6]), "names token 6"),
        (Knockout("dec2.0.cross_attn", scenes=[2]), "names scene 2"),
        (Knockout("dec2.0.cross_attn", scenes=[-1]), "names scene -1"),
        (Knockout("dec2.0.cross_attn", keys=torch.zeros(16, dtype=torch.bool)), "changes nothing"),
        (Knockout("dec2.0.cross_attn", keys=torch.ones(6, dtype=torch.bool)), "does not fit"),
        (Knockout("dec2.0.cross_attn", keys=torch.ones(2, 16, dtype=torch.bool)), "does not fit"),
        (Knockout("dec2.0.cross_attn", mode="soft"), "it must be mask or zero"),
        (Knockout("dec2.2.cross_attn"), "No site of this model matches"),
        (Knockout("dec2.0.mlp"), "No site of this model matches"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    model: DUSt3R, pair: Pair, edit: Knockout, words: str
) -> None:
    with pytest.raises(Prob3rError) as error:
        trace(model, pair, edits=[edit])
    assert words in str(error.value)
    assert str(error.value).endswith(".")
