from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import PatchMatches
from prob3r.models import DUSt3R, Prediction, random
from prob3r.models.sites import Tap
from prob3r.runs.edits import Attention, HeadAblation, Knockout, Means, head_means
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.models.joint import joint_model, scene
from tests.runs.edits.conftest import CONFIG, Explicit, at, close, identical

Run = Callable[[Tap], Prediction]
SITE = "dec2.0.cross_attn"


def test_zeroed_heads_are_columns_cut_from_the_projection(model: DUSt3R, pair: Pair) -> None:
    smaller = deepcopy(model)
    with torch.no_grad():
        smaller.dec_blocks2[0].cross_attn.proj.weight[:, 12:] = 0  # head 1 of 2, 12 channels each
    edit = HeadAblation(SITE, heads=[1])
    close(trace(model, pair, edits=[edit]).output, trace(smaller, pair).output)


def test_the_mean_stands_in_for_every_patch(
    model: DUSt3R, pair: Pair, other: Pair, reference: Run
) -> None:
    means = head_means(model, [other[0], other[1]])
    recorded = trace(model, other, [f"{SITE}.heads"])[f"{SITE}.heads"]
    mean = recorded.mean((0, 2))
    torch.testing.assert_close(means[SITE], mean)

    def swapped(heads: Tensor) -> Tensor:
        heads[:, 0] = mean[0]
        return heads

    edit = HeadAblation(SITE, mode="mean", heads=[0], source=means)
    expected = reference(Explicit(heads=at(f"{SITE}.probs", swapped)))
    close(trace(model, pair, edits=[edit]).output, expected)


def test_resampled_heads_come_from_the_other_pair(
    model: DUSt3R, pair: Pair, other: Pair, reference: Run
) -> None:
    source = trace(model, other, [f"{SITE}.heads"])

    def swapped(heads: Tensor) -> Tensor:
        heads[1, 1] = source[f"{SITE}.heads"][0, 1]
        return heads

    one = {site: record[:1] for site, record in source.items()}
    edit = HeadAblation(SITE, mode="resample", heads=[1], scenes=[1], source=one)
    expected = reference(Explicit(heads=at(f"{SITE}.probs", swapped)))
    close(trace(model, pair, edits=[edit]).output, expected)


def test_a_head_resampled_from_its_own_run_changes_nothing(
    model: DUSt3R, pair: Pair, clean: Prediction
) -> None:
    own = trace(model, pair, ["dec?.*_attn.heads", "enc?.*.heads"])
    edits = [
        HeadAblation(pattern, mode="resample", source=own)
        for pattern in ("dec?.*_attn", "enc?.*_attn")
    ]
    assert identical(trace(model, pair, edits=edits).output, clean)


def test_means_survive_a_file_and_belong_to_one_model(
    model: DUSt3R, pair: Pair, tmp_path: Path
) -> None:
    means = head_means(model, [pair])
    means.save(tmp_path / "means.safetensors")
    read = Means.load(tmp_path / "means.safetensors")
    assert read.pairs == 2
    assert read.values.keys() == {s.removesuffix(".probs") for s in model.attention_sites()}
    assert all(torch.equal(read[site], value) for site, value in means.values.items())
    stranger = random(CONFIG, seed=2)
    with pytest.raises(Prob3rError, match="give the means of this model"):
        trace(stranger, pair, edits=[HeadAblation(SITE, mode="mean", source=read)])
    with pytest.raises(Prob3rError, match="no scenes"):
        head_means(model, [])
    (tmp_path / "not.safetensors").write_bytes(b"means")
    with pytest.raises(Prob3rError):
        Means.load(tmp_path / "not.safetensors")


def test_a_given_map_is_what_the_values_are_weighed_by(
    model: DUSt3R, pair: Pair, reference: Run
) -> None:
    given = torch.rand(1, 1, 6, 16).softmax(-1)

    def replaced(probs: Tensor) -> Tensor:
        probs[:, 1, [0, 5]] = given[0, 0, [0, 5]]
        return probs

    edit = Attention(SITE, given, heads=[1], queries=[0, 5])
    run = trace(model, pair, [f"{SITE}.probs"], [edit])
    close(run.output, reference(Explicit(probs=at(f"{SITE}.probs", replaced))))
    torch.testing.assert_close(run[f"{SITE}.probs"][0, 1, 5], given[0, 0, 5])


def test_the_models_own_map_changes_nothing(model: DUSt3R, pair: Pair, clean: Prediction) -> None:
    own = trace(model, pair, [f"{SITE}.probs"])[f"{SITE}.probs"]
    run = trace(model, pair, edits=[Attention(SITE, own.as_subclass(Tensor))])
    assert identical(run.output, clean)


def test_oracle_and_scrambled_matches(model: DUSt3R, pair: Pair) -> None:
    match = torch.arange(12).reshape(2, 6)
    visible = torch.ones(2, 6, dtype=torch.bool)
    visible[0, 2] = False
    matches = PatchMatches(match, visible)
    name = f"{SITE}.probs"
    plain = trace(model, pair, [name])[name]
    probs = trace(model, pair, [name], [Attention.oracle(SITE, matches, 16)])[name]
    for b in range(2):
        for i in range(6):
            if visible[b, i]:
                assert (probs[b, :, i].argmax(-1) == match[b, i]).all()
                torch.testing.assert_close(probs[b, :, i].amax(-1), torch.ones(2))
            else:
                assert torch.equal(probs[b, :, i], plain[b, :, i])
    generator = torch.Generator().manual_seed(0)
    edit = Attention.scrambled(SITE, matches, 16, generator)
    looked = trace(model, pair, [f"{SITE}.argmax"], [edit])[f"{SITE}.argmax"][:, 0]
    for b in range(2):
        seen = visible[b]
        assert sorted(looked[b][seen].tolist()) == match[b][seen].tolist()
        assert looked[b][seen].tolist() != match[b][seen].tolist()
    uniform = trace(model, pair, [name], [Attention.uniform(SITE, 16)])[name]
    torch.testing.assert_close(uniform.as_subclass(Tensor), torch.full((2, 2, 6, 16), 1 / 16))


def test_matches_of_joint_attention_are_over_view_1_s_patches() -> None:
    model, views = joint_model(), scene(2)
    match, visible = torch.arange(32).reshape(2, 16) % 16, torch.ones(2, 16, dtype=torch.bool)
    visible[1, 3] = False
    site = "dec2.1.global_attn"
    edit = Attention.oracle(site, PatchMatches(match, visible), 16)
    plain, probs = (
        torch.Tensor(trace(model, views, [f"{site}.probs"], edits)[f"{site}.probs"])
        for edits in ([], [edit])
    )
    assert probs.shape == (2, 4, 17, 34)
    rows = visible.nonzero().tolist()
    for b, i in rows:
        wanted = torch.zeros(4, 34)
        wanted[:, 1 + match[b, i]] = 1  # after the camera token of view 1
        torch.testing.assert_close(probs[b, :, 1 + i], wanted)
    torch.testing.assert_close(probs[:, :, 0], plain[:, :, 0])
    torch.testing.assert_close(probs[1, :, 4], plain[1, :, 4])
    with pytest.raises(Prob3rError, match="self_attn does not attend to"):
        trace(
            model,
            views,
            edits=[Attention.oracle("dec2.1.self_attn", PatchMatches(match, visible), 16)],
        )
    with pytest.raises(Prob3rError, match="9 keys, and there are 16"):
        trace(model, views, edits=[Attention(site, torch.ones(1, 1, 16, 9) / 9, keys_of=1)])


def test_a_map_is_given_first_and_cut_after(model: DUSt3R, pair: Pair) -> None:
    name = f"{SITE}.probs"
    cut = Knockout(SITE, keys=[0, 1], mode="zero")
    masked = Knockout(SITE, keys=[2, 3])
    runs = [
        trace(model, pair, [name], edits)
        for edits in (
            [cut, masked, Attention.uniform(SITE, 16)],
            [Attention.uniform(SITE, 16), masked, cut],
        )
    ]
    assert identical(runs[0].output, runs[1].output)
    expected = torch.full((16,), 1 / 14)
    expected[:4] = 0
    torch.testing.assert_close(runs[0][name][1, 1, 3].as_subclass(Tensor), expected)


EMPTY: Mapping[str, Tensor] = {}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (HeadAblation(SITE, mode="half"), "must be zero, mean or resample"),
        (HeadAblation(SITE, mode="mean"), "needs `source`, the means"),
        (HeadAblation(SITE, mode="resample"), f"needs `source`, a trace with '{SITE}.heads'"),
        (HeadAblation(SITE, mode="resample", source=EMPTY), "record it there"),
        (
            HeadAblation(SITE, mode="resample", source={f"{SITE}.heads": torch.zeros(3, 2, 6, 12)}),
            "source of 3 scenes and changes 2",
        ),
        (
            HeadAblation(SITE, mode="resample", source={f"{SITE}.heads": torch.zeros(1, 2, 9, 12)}),
            "(1, 2, 9, 12), which does not fit (2, 2, 6, 12)",
        ),
        (Attention(SITE, torch.full((1, 1, 1, 6), 1 / 6)), "over 6 keys, and there are 16"),
        (Attention(SITE, torch.full((1, 1, 5, 16), 1 / 16)), "does not fit"),
        (Attention(SITE, torch.ones(1, 1, 1, 16)), "don't sum to one"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    model: DUSt3R, pair: Pair, edit: HeadAblation | Attention, words: str
) -> None:
    with pytest.raises(Prob3rError) as error:
        trace(model, pair, edits=[edit])
    assert words in str(error.value)
