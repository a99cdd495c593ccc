from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from prob3r.models import (
    DUSt3R,
    DUSt3RConfig,
    PosedDUSt3R,
    Prediction,
    random,
)
from prob3r.models.layers import Tokens
from prob3r.models.sites import Tap
from prob3r.rooms import Rooms
from prob3r.runs.edits import Skip
from prob3r.runs.encoded import EncodedViews, encoding_once, reusing_views
from prob3r.runs.replay import Replay
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, View
from prob3r.scenes.source import Subset, share_views
from tests.held import Held

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)
DECODER = "dec2.1.mlp"


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def views() -> Tensor:
    return 2 * torch.rand(4, 3, 32, 24, generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture
def memory(model: DUSt3R) -> Iterator[EncodedViews]:
    with torch.no_grad(), encoding_once(model) as encoded:
        yield encoded


def pair_of(views: Tensor, first: Sequence[int], second: Sequence[int]) -> Pair:
    return Pair(View(views[list(first)]), View(views[list(second)]))


def run(model: DUSt3R, pair: Pair) -> Prediction:
    return model(pair.view1.image, pair.view2.image)


def flat(output: Prediction) -> tuple[Tensor, ...]:
    return (*output.points, *output.confidence)


def same(one: Prediction, two: Prediction) -> bool:
    return all(torch.equal(*both) for both in zip(flat(one), flat(two), strict=True))


def close(one: Prediction, two: Prediction) -> None:
    for got, expected in zip(flat(one), flat(two), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("posed", [False, True])
def test_every_view_is_encoded_once_and_outputs_are_those_of_a_plain_run(
    model: DUSt3R, views: Tensor, posed: bool
) -> None:
    model = PosedDUSt3R.from_twin(model) if posed else model
    batches = [pair_of(views, [0, 1, 0], [1, 2, 2]), pair_of(views, [2, 3], [3, 3])]
    with torch.no_grad():
        expected = [run(model, pair) for pair in batches]
        with encoding_once(model) as memory:
            found = [run(model, pair) for pair in batches]
    assert (memory.encoded, memory.reused) == (4, 6)
    for got, plain in zip(found, expected, strict=True):
        close(got, plain)


def test_what_was_seen_before_and_what_else_is_in_the_batch_change_nothing(
    model: DUSt3R, views: Tensor
) -> None:
    asked = pair_of(views, [2], [1])
    outputs = []
    with torch.no_grad():
        for before in ([], [([0, 1], [2, 3])], [([1], [2]), ([3, 3], [0, 1])]):
            with encoding_once(model):
                for first, second in before:
                    run(model, pair_of(views, first, second))
                outputs.append(run(model, asked))
    assert all(same(output, outputs[0]) for output in outputs)


def test_views_of_different_sizes_and_nearly_the_same_pixels_are_told_apart(
    model: DUSt3R, views: Tensor, memory: EncodedViews
) -> None:
    nearly = views[:1].clone()
    nearly[0, 2, -1, -1] = torch.nextafter(nearly[0, 2, -1, -1], torch.tensor(2.0))
    turned = views[:1].reshape(1, 3, 24, 32)
    for image in (views[:1], nearly, turned):
        found = memory(image)
        expected = model.encoder_stream(image)
        assert torch.equal(found.stream, expected.stream)
        assert found.grid == expected.grid
    assert (memory.encoded, memory.reused) == (3, 0)


def test_precisions_are_told_apart(model: DUSt3R, views: Tensor, memory: EncodedViews) -> None:
    full = memory(views)
    with torch.autocast("cpu", torch.bfloat16):
        half = memory(views)
    assert memory.encoded == 8
    assert not torch.equal(full.stream, half.stream)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_it_forgets_what_was_not_asked_for_longest(model: DUSt3R, views: Tensor, room: int) -> None:
    seen = list[int]()

    def encode(image: Tensor) -> Tokens:
        seen.append(next(i for i, view in enumerate(views) if torch.equal(view, image[0])))
        return model.encoder_stream(image)

    with torch.no_grad():
        one = model.encoder_stream(views[:1]).stream.nbytes
        memory = EncodedViews(encode, room * one)
        for rows in ([0, 1], [0], [2], [0], [1]):
            found = memory(views[rows])
            torch.testing.assert_close(found.stream, model.encoder_stream(views[rows]).stream)
    expected = {0: [0, 1, 0, 2, 0, 1], 1: [0, 1, 0, 2, 0, 1], 2: [0, 1, 2, 1]}
    assert seen == expected[room]


def test_a_run_that_looks_into_the_encoder_or_changes_it_runs_it(
    model: DUSt3R, views: Tensor, memory: EncodedViews
) -> None:
    pair = pair_of(views, [0, 1], [1, 2])
    run(model, pair)
    before = memory.encoded, memory.reused
    recorded = trace(model, pair, ["enc1.*", "enc2.0.self_attn.argmax", DECODER])
    edited = trace(model, pair, DECODER, [Skip("enc1.0.self_attn")])
    assert (memory.encoded, memory.reused) == before
    assert not torch.equal(edited[DECODER], recorded[DECODER])
    decoder = trace(model, pair, DECODER)
    assert memory.reused == before[1] + 4
    torch.testing.assert_close(decoder[DECODER], recorded[DECODER], atol=1e-5, rtol=1e-5)


def test_replays_start_from_what_is_kept(
    model: DUSt3R, views: Tensor, memory: EncodedViews
) -> None:
    pair = pair_of(views, [0, 1], [1, 2])
    replay = Replay(model, pair, DECODER)
    assert (memory.encoded, memory.reused) == (3, 1)
    edit = Skip("dec2.0.mlp")
    expected = trace(model, pair, DECODER, [edit])
    torch.testing.assert_close(replay.run([edit])[DECODER], expected[DECODER])


def test_gradients_go_through_the_encoder(model: DUSt3R, views: Tensor) -> None:
    pair = pair_of(views, [0], [1])
    with encoding_once(model) as memory:
        run(model, pair).points[1].sum().backward()
    assert model.patch_embed.get_submodule("proj").weight.grad is not None
    assert memory.encoded == 0
    model.zero_grad()


def test_afterwards_nothing_is_kept(model: DUSt3R, views: Tensor) -> None:
    pair = pair_of(views, [0], [1])
    with pytest.raises(KeyError), encoding_once(model) as memory, torch.no_grad():
        raise KeyError
    with torch.no_grad():
        run(model, pair)
    assert memory.encoded == 0


def test_views_are_kept_where_pairs_share_them(
    model: DUSt3R, views: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = Rooms("test", (32, 32), compile=False)
    held = Held(pair_of(views, [0, 1], [1, 2]))
    assert not share_views(rooms)
    assert not share_views(Subset(rooms, [1, 0]))
    assert share_views(Subset(held, [1, 0]))
    calls = list[int]()
    encode = model.encoder_stream

    def counted(images: Tensor, tap: Tap | None = None) -> Tokens:
        calls.append(len(images))
        return encode(images, tap)

    monkeypatch.setattr(model, "encoder_stream", counted)
    for pairs, expected in ((rooms, [4, 4]), (held, [1, 1, 1])):
        calls.clear()
        with reusing_views(pairs, model):
            for _ in range(2):
                trace(model, held.pair, DECODER)
        assert calls == expected
