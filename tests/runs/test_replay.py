import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.models.sites import Tap
from prob3r.runs.edits import Edit, HeadAblation, Knockout, Skip, Transplant
from prob3r.runs.replay import Replay
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.runs.edits.conftest import clean, close, flat, identical, model, other, pair

__all__ = ["clean", "model", "other", "pair"]

RECORD = ["enc2.*", "dec?.*", "dec2.*.cross_attn.argmax", "dec2.1.self_attn.heads"]

EDITS: list[list[Edit]] = [
    [Knockout("dec2.1.cross_attn", heads=[0])],
    [Skip("dec1.1.self_attn")],
    [HeadAblation("dec1.0.cross_attn", heads=[1], scenes=[1])],
    [Knockout("enc1.0.self_attn", keys=[0, 1])],
    [Skip("dec2.1.mlp", patches=[2]), Knockout("dec2.0.self_attn", queries=[3])],
    [Knockout("dec2.1.self_attn")],
    [Skip("dec1.0.mlp"), Skip("dec2.0.mlp")],
    [Knockout("dec1.1.cross_attn", keys=[0]), Skip("dec2.1.mlp")],
    [Skip("dec1.1.mlp")],
]


def test_the_clean_run_is_a_trace(model: DUSt3R, pair: Pair) -> None:
    replay, run = Replay(model, pair, RECORD), trace(model, pair, RECORD)
    assert list(replay.clean) == list(run)
    assert all(torch.equal(replay.clean[site], run[site]) for site in run)
    assert identical(replay.clean.output, run.output)


@pytest.mark.parametrize("edits", EDITS)
def test_a_replay_is_a_run_from_the_start(model: DUSt3R, pair: Pair, edits: list[Edit]) -> None:
    expected = trace(model, pair, RECORD, edits)
    replayed = Replay(model, pair, RECORD).run(edits)
    assert list(replayed) == list(expected)
    for site in expected:
        torch.testing.assert_close(replayed[site], expected[site], rtol=1e-6, atol=1e-6)
        assert replayed[site].grid == expected[site].grid
    close(replayed.output, expected.output)


def test_an_edit_of_the_decoders_input(model: DUSt3R, pair: Pair, other: Pair) -> None:
    source = trace(model, other, "dec2.embed")
    edits = [Transplant("dec2.embed", source)]
    close(Replay(model, pair).run(edits).output, trace(model, pair, edits=edits).output)


def test_only_sublayers_from_the_first_edit_on_run_again(model: DUSt3R, pair: Pair) -> None:
    replay = Replay(model, pair, ["dec?.*"])
    run = replay.run([Skip("dec2.1.mlp")])
    for site in run:
        same_object = run[site] is replay.clean[site]
        assert same_object == (site != "dec2.1.mlp"), site


def test_without_edits_nothing_changes(model: DUSt3R, pair: Pair) -> None:
    replay = Replay(model, pair, RECORD)
    run = replay.run([])
    assert identical(run.output, replay.clean.output)
    assert all(torch.equal(run[site], replay.clean[site]) for site in run)


@pytest.mark.parametrize("chosen", [[0, 1, 5], [0, 2, 4], [1, 3], [0, 5], [1, 8], [2, 6]])
def test_a_stack_is_its_variants_one_after_the_other(
    model: DUSt3R, pair: Pair, chosen: list[int]
) -> None:
    replay = Replay(model, pair)
    together = flat(replay.stack([EDITS[i] for i in chosen]))
    each = zip(*(flat(replay.run(EDITS[i]).output) for i in chosen), strict=True)
    for stacked, parts in zip(together, each, strict=True):
        torch.testing.assert_close(stacked, torch.cat(parts), rtol=1e-5, atol=1e-5)


def test_a_dpt_head_reads_states_from_before_the_edit(pair: Pair) -> None:
    dpt = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, head="dpt"), seed=1)
    images = pair.map(lambda t: torch.nn.functional.interpolate(t, (32, 48)))
    edits = [Knockout("dec2.3.cross_attn", heads=[1])]
    replay = Replay(dpt, images)
    close(replay.run(edits).output, trace(dpt, images, edits=edits).output)
    assert identical(replay.clean.output, trace(dpt, images).output)


def test_the_model_is_left_as_it_was(model: DUSt3R, pair: Pair) -> None:
    replay = Replay(model, pair)
    replay.run([Skip("dec2.0.mlp")])
    replay.stack([[Skip("dec2.0.mlp")], [Skip("dec1.1.mlp")]])
    with torch.no_grad():
        again = model(*pair.images, tap=Tap())
    assert identical(again, replay.clean.output)
    assert identical(replay.run([]).output, replay.clean.output)


def test_an_edit_that_does_not_fit_is_refused(model: DUSt3R, pair: Pair) -> None:
    replay = Replay(model, pair)
    with pytest.raises(Prob3rError, match="names head 9"):
        replay.run([Knockout("dec2.0.cross_attn", heads=[9])])
    with pytest.raises(Prob3rError, match="names scene 2"):
        replay.stack([[Skip("dec2.0.mlp")], [Skip("dec2.0.mlp", scenes=[2])]])
    with pytest.raises(Prob3rError, match="No site"):
        Replay(model, pair, "dec3.*")
