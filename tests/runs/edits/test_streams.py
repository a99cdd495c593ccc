from collections.abc import Callable
from copy import deepcopy
from itertools import permutations

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, Prediction
from prob3r.models.sites import Tap
from prob3r.runs.edits import Attention, Edit, HeadAblation, Knockout, Skip, Transplant
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import Pair
from tests.runs.edits.conftest import Explicit, at, close, flat, identical

Run = Callable[[Tap], Prediction]


@pytest.fixture(scope="module")
def own(model: DUSt3R, pair: Pair) -> Trace:
    return trace(model, pair, ["enc?.*", "dec?.*", "*.probs", "*.heads"])


@pytest.fixture(scope="module")
def foreign(model: DUSt3R, other: Pair) -> Trace:
    return trace(model, other, ["enc?.*", "dec?.*", "*.probs", "*.heads"])


@pytest.mark.parametrize("pattern", ["enc1.*", "dec2.*", "*.heads", "*.probs", "dec1.embed"])
def test_a_transplant_from_the_same_run_changes_nothing(
    model: DUSt3R, pair: Pair, clean: Prediction, own: Trace, pattern: str
) -> None:
    output = trace(model, pair, edits=[Transplant(pattern, own)]).output
    close(output, clean)
    # A run without edits multiplies attention maps in one fused kernel, which rounds otherwise.
    assert pattern == "*.probs" or identical(output, clean)


def test_a_stream_transplanted_at_some_patches(
    model: DUSt3R, pair: Pair, foreign: Trace, reference: Run
) -> None:
    site = "dec2.0.cross_attn"

    def swapped(stream: Tensor) -> Tensor:
        stream[0, [1, 4]] = foreign[site][1, [1, 4]]
        return stream

    source = {site: foreign[site][1:]}
    edit = Transplant(site, source, patches=[1, 4], scenes=[0])
    close(trace(model, pair, edits=[edit]).output, reference(Explicit(stream=at(site, swapped))))


def test_the_whole_of_a_late_stream_gives_the_other_pairs_view(
    model: DUSt3R, pair: Pair, other: Pair, foreign: Trace
) -> None:
    expected = trace(model, other).output
    run = trace(model, pair, edits=[Transplant("dec2.1.mlp", foreign)]).output
    assert expected is not None
    assert run is not None
    assert torch.equal(run.points[1], expected.points[1])
    assert not torch.equal(run.points[0], expected.points[0])


def test_heads_and_maps_transplanted(
    model: DUSt3R, pair: Pair, foreign: Trace, reference: Run
) -> None:
    site = "dec1.1.cross_attn"

    def heads(output: Tensor) -> Tensor:
        output[:, 0, [2, 3]] = foreign[f"{site}.heads"][:, 0, [2, 3]]
        return output

    def probs(chart: Tensor) -> Tensor:
        chart[:, 1] = foreign[f"{site}.probs"][:, 1]
        return chart

    edits = [
        Transplant(f"{site}.heads", foreign, heads=[0], patches=[2, 3]),
        Transplant(f"{site}.probs", foreign, heads=[1]),
    ]
    name = f"{site}.probs"
    expected = reference(Explicit(heads=at(name, heads), probs=at(name, probs)))
    close(trace(model, pair, edits=edits).output, expected)


@pytest.mark.parametrize("sublayer", ["self_attn", "cross_attn", "mlp"])
def test_a_skipped_sublayer_is_one_whose_last_layer_is_zero(
    model: DUSt3R, pair: Pair, sublayer: str
) -> None:
    smaller = deepcopy(model)
    block = smaller.dec_blocks2[1]
    last = {"self_attn": block.attn.proj, "cross_attn": block.cross_attn.proj, "mlp": block.mlp.fc2}
    with torch.no_grad():
        for parameter in last[sublayer].parameters():
            parameter.zero_()
    skipped = trace(model, pair, edits=[Skip(f"dec2.1.{sublayer}")])
    close(skipped.output, trace(smaller, pair).output)


def test_a_sublayer_skipped_at_some_patches(model: DUSt3R, pair: Pair) -> None:
    sites = ["dec2.0.cross_attn", "dec2.0.mlp"]
    plain = trace(model, pair, sites)
    run = trace(model, pair, sites, [Skip("dec2.0.mlp", patches=[0, 5], scenes=[0])])
    kept = [0, 5]
    assert torch.equal(run[sites[1]][0, kept], plain[sites[0]][0, kept])
    assert torch.equal(run[sites[1]][0, 1:5], plain[sites[1]][0, 1:5])
    assert torch.equal(run[sites[1]][1], plain[sites[1]][1])


def edits_at_one_block(foreign: Trace) -> list[Edit]:
    site = "dec2.0.cross_attn"
    return [
        Skip("dec2.0.self_attn", patches=[1]),
        Knockout(site, keys=[3], heads=[0]),
        Knockout(site, keys=[4], mode="zero"),
        HeadAblation(site, heads=[1], scenes=[0]),
        Attention.uniform(site, 16, heads=[0], scenes=[1]),
        Transplant("dec2.0.mlp", foreign, patches=[2]),
    ]


def test_edits_apply_in_the_order_of_the_model_whatever_theirs_is(
    model: DUSt3R, pair: Pair, foreign: Trace, clean: Prediction
) -> None:
    edits = edits_at_one_block(foreign)
    together = trace(model, pair, edits=edits).output
    for order in list(permutations(range(len(edits))))[::97]:
        again = trace(model, pair, edits=[edits[i] for i in order]).output
        assert identical(again, together)
    for left_out in range(len(edits)):
        fewer = edits[:left_out] + edits[left_out + 1 :]
        assert not identical(trace(model, pair, edits=fewer).output, together)
    assert not identical(together, clean)


def test_edits_leave_nothing_behind(
    model: DUSt3R, pair: Pair, foreign: Trace, clean: Prediction
) -> None:
    before = deepcopy(model.state_dict())
    source = {site: record.clone() for site, record in foreign.items()}
    trace(model, pair, edits=edits_at_one_block(foreign))
    assert identical(trace(model, pair).output, clean)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, source[site]) for site, t in foreign.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_batch_of_edits_is_a_batch_of_runs(model: DUSt3R, pair: Pair, foreign: Trace) -> None:
    edits = [
        Knockout("dec?.*.cross_attn", keys=[1], scenes=[0]),
        Skip("dec2.1.mlp", scenes=[1]),
        Transplant("dec1.0.mlp", {"dec1.0.mlp": foreign["dec1.0.mlp"][:1]}, scenes=[1]),
    ]
    together = trace(model, pair, edits=edits).output
    first = trace(model, pair[0], edits=[Knockout("dec?.*.cross_attn", keys=[1])]).output
    second = trace(
        model,
        pair[1],
        edits=[
            Skip("dec2.1.mlp"),
            Transplant("dec1.0.mlp", {"dec1.0.mlp": foreign["dec1.0.mlp"][:1]}),
        ],
    ).output
    for both, one, two in zip(flat(together), flat(first), flat(second), strict=True):
        torch.testing.assert_close(both, torch.cat([one, two]), rtol=1e-5, atol=1e-5)


def test_two_edits_cannot_put_different_things_in_one_place(
    model: DUSt3R, pair: Pair, own: Trace, foreign: Trace
) -> None:
    for one, two in (
        (Transplant("dec2.0.mlp", own), Transplant("dec2.0.mlp", foreign, patches=[1])),
        (HeadAblation("dec2.0.cross_attn"), HeadAblation("dec2.*.cross_attn", heads=[1])),
        (Attention.uniform("dec2.0.cross_attn", 16), Transplant("dec2.0.cross_attn.probs", own)),
    ):
        with pytest.raises(Prob3rError, match="replace the same tokens"):
            trace(model, pair, edits=[one, two])
    apart = [
        Transplant("dec2.0.mlp", own, patches=[0]),
        Transplant("dec2.0.mlp", foreign, patches=[1]),
    ]
    trace(model, pair, edits=apart)


def test_what_does_not_fit_is_one_sentence(model: DUSt3R, pair: Pair, own: Trace) -> None:
    wrong: list[tuple[Edit, str]] = [
        (Skip("dec2.embed"), "which is an input and not a sublayer"),
        (Skip("dec2.0.mlp", patches=[6]), "names token 6"),
        (Skip("dec2.0.mpl"), "near matches are"),
        (Transplant("dec2.0.mlp", {}), "record it there"),
        (Transplant("dec2.0.mlp", own, heads=[0]), "a residual stream has none"),
        (Transplant("dec2.0.mlp", {"dec2.0.mlp": torch.zeros(2, 6, 23)}), "(2, 6, 23)"),
        (Transplant("dec2.0.mlp", {"dec2.0.mlp": torch.zeros(2, 9, 24)}), "(2, 9, 24)"),
        (
            Transplant("dec2.0.self_attn.heads", {"dec2.0.self_attn.heads": torch.zeros(1, 2)}),
            "(1, 2)",
        ),
        (
            Transplant(
                "dec2.0.self_attn.probs", {"dec2.0.self_attn.probs": torch.zeros(1, 3, 6, 6)}
            ),
            "does not fit",
        ),
    ]
    for edit, words in wrong:
        with pytest.raises(Prob3rError) as error:
            trace(model, pair, edits=[edit])
        assert words in str(error.value), words
