from dataclasses import fields

import pytest
import torch
from torch import Tensor

from prob3r.geometry import rotation_between
from prob3r.models import DUSt3R, Prediction
from prob3r.models.sites import Tap
from prob3r.scenes import Pair, View
from prob3r.training.recipe import Stage
from prob3r.training.stream import Stream
from prob3r.training.validation import Validation
from tests.training.conftest import CONFIG

STAGE = Stage("pointmaps", size=16, pairs=48, batch=4, lr=1e-3)
CURRICULUM = Stage("pointmaps", 16, 48, 4, 1e-3, pool_start=0.25, pool_open=0.5)


def stream(stage: Stage = STAGE, seed: int = 0) -> Stream:
    """Two steps a chunk."""
    return Stream(stage, seed, "cpu", chunk=8)


def tensors(pair: Pair) -> list[Tensor]:
    return [getattr(view, f.name) for view in (pair.view1, pair.view2) for f in fields(View)]


def rotations(pair: Pair) -> Tensor:
    first, second = pair.view1.cam_to_world, pair.view2.cam_to_world
    assert first is not None
    assert second is not None
    return rotation_between(first, second)


@pytest.mark.parametrize("stage", [STAGE, CURRICULUM])
def test_a_batch_is_a_function_of_its_step_alone(stage: Stage) -> None:
    through = stream(stage)
    in_order = [through.batch(step) for step in range(6)]
    for step in (5, 2, 3):
        fresh = stream(stage).batch(step)
        assert fresh.names == in_order[step].names
        assert all(map(torch.equal, tensors(fresh), tensors(in_order[step])))


def test_batches_are_full_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    through = stream()
    names = [through.batch(step).names for step in range(6)]
    assert {len(batch) for batch in names} == {4}
    chunks = [{*names[i], *names[i + 1]} for i in (0, 2, 4)]
    assert len(set.union(*chunks)) == sum(map(len, chunks))
    other = stream(seed=1)
    assert set.union(*chunks).isdisjoint(other.batch(0).names)


def test_every_pair_comes_both_ways_round() -> None:
    through = stream()
    both = [through.batch(step) for step in (0, 1)]
    depths: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for pair in both:
        assert pair.view1.depth is not None
        assert pair.view2.depth is not None
        for name, one, two in zip(pair.names, pair.view1.depth, pair.view2.depth, strict=True):
            depths.setdefault(name, []).append((one, two))
    assert len(depths) == 4
    for (one, two), (other_one, other_two) in depths.values():
        assert torch.equal(one, other_two)
        assert torch.equal(two, other_one)
        assert not torch.equal(one, two)


def test_the_curriculum_starts_with_the_least_rotation() -> None:
    """The first chunk takes the easiest quarter of its candidates, the last takes all."""
    through = stream(CURRICULUM)
    first = torch.cat([rotations(through.batch(step)) for step in (0, 1)])
    _, poses = through.rooms.cameras(range(16))
    candidates = rotation_between(poses[:, 0], poses[:, 1]).sort().values
    torch.testing.assert_close(first.sort().values[::2], candidates[:4], atol=0.1, rtol=0)
    assert first.max() < candidates[4]

    last = through.batch(10).names + through.batch(11).names
    numbers = sorted({int(name.rpartition("/")[2]) for name in last})
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_images_are_varied_and_the_truth_is_not() -> None:
    through = stream()
    pair = through.batch(0)
    numbers = [int(name.rpartition("/")[2]) for name in pair.names]
    plain = through.rooms.batch(numbers)
    for row in range(4):
        ways = [plain[row], plain[row].swap()]
        same = [torch.equal(pair[row].points[0], way.points[0]) for way in ways]
        assert sum(same) == 1
        image = ways[same.index(True)].view1.image
        assert not torch.equal(pair[row].view1.image, image)
        together = torch.stack([pair[row].view1.image.flatten(), image.flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.9
    assert pair.view1.image.abs().max() <= 1


def test_a_long_batch_is_a_chunk_of_its_own() -> None:
    assert len(Stream(Stage("pointmaps", 16, 48, 12, 1e-3), 0, "cpu", chunk=8).batch(1)) == 12


class Oracle(DUSt3R):
    """Knows the pairs, and gives view 2 in its own frame unless it is shown the right view 1."""

    def __init__(self, pairs: list[Pair]):
        super().__init__(CONFIG)
        self.pairs = pairs

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        images1, images2 = images
        (pair,) = [p for p in self.pairs if torch.equal(p.view2.image, images2)]
        matched = torch.equal(pair.view1.image, images1)
        one, two = pair.points if matched else (pair.view1.points, pair.view2.points)
        return Prediction((3 * one, 3 * two), (torch.ones_like(one[..., 0]),) * 2)


def test_validation_measures_medians_and_the_shuffled_control() -> None:
    validation = Validation(16, 7, "cpu", batch=3)
    assert [len(pair) for pair in validation.batches] == [3, 3, 1]
    validation.batches = validation.batches[:2]
    oracle = Oracle(validation.batches).train()
    measured = validation.measure(oracle)
    shuffled = measured.pop("shuffled_rotation_error")
    assert max(measured.values()) < 0.1
    rotation = torch.cat([rotations(pair) for pair in validation.batches])
    assert shuffled == pytest.approx(rotation.sort().values[2:4].mean().item(), abs=0.5)
    assert oracle.training
