import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_grid, rotation_between
from prob3r.models import DUSt3R, Prediction
from prob3r.models.sites import Tap
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, View
from prob3r.training.recipe import Stage
from prob3r.training.stream import Stream, ViewsStream
from prob3r.training.validation import Validation
from tests.training.conftest import CONFIG

STAGE = Stage("pointmaps", size=16, pairs=48, batch=4, lr=1e-3)
VIEWS = Stage("many-views", 16, 48, 4, 1e-3, views=(2, 4))
CURRICULUM = Stage("pointmaps", 16, 48, 4, 1e-3, pool_start=0.25, pool_open=0.5)


def stream(stage: Stage = STAGE, seed: int = 0) -> Stream:
    """Two steps a chunk."""
    return Stream(stage, seed, "cpu", chunk=8)


def tensors(pair: Pair) -> list[Tensor]:
    found = (getattr(view, f.name) for view in (pair.view1, pair.view2) for f in fields(View))
    return [tensor for tensor in found if tensor is not None]


def rotations(pair: Pair) -> Tensor:
    first, second = pair.view1.cam_to_world, pair.view2.cam_to_world
    assert first is not None
    assert second is not None
    return rotation_between(first, second)


EVERYDAY = replace(CURRICULUM, everyday=0.5, symmetric=True)


@pytest.mark.parametrize("stage", [STAGE, CURRICULUM, EVERYDAY, replace(EVERYDAY, symmetric=False)])
def test_a_batch_is_a_function_of_its_step_alone(stage: Stage) -> None:
    through = stream(stage)
    in_order = [through.batch(step) for step in range(6)]
    for step in (5, 2, 3):
        fresh = stream(stage).batch(step)
        assert fresh.names == in_order[step].names
        both = zip(tensors(fresh), tensors(in_order[step]), strict=True)
        assert all(torch.equal(one, other) for one, other in both)


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
    _, poses = through.source.staged[2].cameras(range(16))
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
    plain = through.source.staged[2].batch(numbers)
    for row in range(4):
        ways = [plain[row], plain[row].swap()]
        same = [torch.equal(pair[row].points[0], way.points[0]) for way in ways]
        assert sum(same) == 1
        image = ways[same.index(True)].view1.image
        assert not torch.equal(pair[row].view1.image, image)
        together = torch.stack([pair[row].view1.image.flatten(), image.flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.9
    assert pair.view1.image.abs().max() <= 1


def test_a_symmetric_batch_holds_each_pair_and_then_its_exchange() -> None:
    """Both ways share their pictures, so that a model encodes each picture once."""
    through = stream(EVERYDAY)
    names = []
    for step in range(4):
        pair = through.batch(step)
        assert len(pair) == 4
        assert pair.names[:2] == pair.names[2:]
        assert torch.equal(pair.view1.image[:2], pair.view2.image[2:])
        assert torch.equal(pair.view2.points[:2], pair.view1.points[2:])
        names += pair.names[:2]
    assert len(set(names)) == 8


def test_everyday_rooms_are_the_share_that_was_asked_for() -> None:
    """A quarter of the rooms have the geometry and the cameras of everyday ones."""
    stage = replace(STAGE, pairs=64, batch=16, everyday=0.25, symmetric=True)
    through = Stream(stage, 0, "cpu", chunk=16)
    pair = through.batch(0)[:8]
    numbers = [int(name.rpartition("/")[2]) for name in pair.names]
    styles = [through.source.staged[2].batch(numbers), through.source.everyday[2].batch(numbers)]
    apart = torch.stack([(s.points[0] - pair.points[0]).abs().amax((1, 2, 3)) for s in styles])
    assert (apart < 1e-3).sum(dim=1).tolist() == [6, 2]


def views_stream(stage: Stage = VIEWS, seed: int = 0) -> ViewsStream:
    """Two rounds of two and four views a chunk."""
    return ViewsStream(stage, seed, "cpu", chunk=16)


@pytest.mark.parametrize("everyday", [0.0, 0.5])
def test_batches_of_several_views_take_turns_and_depend_on_their_step_alone(
    everyday: float,
) -> None:
    stage = replace(VIEWS, everyday=everyday)
    through = views_stream(stage)
    in_order = [through.batch(step) for step in range(6)]
    assert [(scenes.count, len(scenes)) for scenes in in_order] == [(2, 4), (4, 2)] * 3
    names = [name for scenes in in_order for name in scenes.names]
    assert len(set(names)) == len(names)
    for step in (5, 2):
        fresh = views_stream(stage).batch(step)
        assert fresh.names == in_order[step].names
        for one, other in zip(fresh.views, in_order[step].views, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.points, other.points)
    others = views_stream(stage, seed=1)
    assert {*names}.isdisjoint(others.batch(0).names + others.batch(1).names)


def test_scenes_of_several_views_start_with_the_least_mean_rotation() -> None:
    through = views_stream(replace(VIEWS, pool_start=0.25, pool_open=0.5))
    first = through.batch(1), through.batch(3)
    numbers = {int(name.rpartition("/")[2]) for scenes in first for name in scenes.names}
    # The first chunk has 32 candidates with two views, and one to spare; then 16 with four.
    candidates = range(33, 49)
    _, poses = Rooms("train", (16, 16), views=4, compile=False).cameras(candidates)
    angles = [rotation_between(poses[:, 0], poses[:, view]) for view in (1, 2, 3)]
    order = torch.stack(angles).sum(0).argsort()
    assert numbers == {candidates[i] for i in order[:4].tolist()}


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


def photograph(path: Path, seed: int) -> None:
    noise = torch.rand(6, 8, 3, generator=torch.Generator().manual_seed(seed))
    Image.fromarray((255 * noise).byte().numpy()).resize((64, 48)).save(path)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Two pairs, the second camera turned by 90 degrees, without depth."""
    eye = torch.eye(4)
    turned = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for view in (1, 2):
            photograph(tmp_path / name / f"{view}.png", ord(name) + view)
        views = [
            {
                "image": f"{view}.png",
                "intrinsics": [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]],
                "cam_to_world": pose.tolist(),
            }
            for view, pose in ((1, eye), (2, turned))
        ]
        (tmp_path / name / "pair.json").write_text(json.dumps({"views": views}))
    return tmp_path


class Still(DUSt3R):
    """Gives both views one plane before camera 1, as if the camera had not moved."""

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        b, _, h, w = images[0].shape
        pixels = pixel_grid(h, w).expand(b, -1, -1, -1)
        focal = 50 * h / 48
        rays = (pixels - (h - 1) / 2) / focal
        points = torch.cat([rays, torch.ones(b, h, w, 1)], dim=-1)
        points = points * (1 + torch.rand(h, w, 1, generator=torch.Generator().manual_seed(0)))
        return Prediction((points, points), (torch.ones(b, h, w),) * 2)


def test_real_pairs_are_measured_without_their_depth(real: Path) -> None:
    validation = Validation(16, 2, "cpu", real=real)
    measured = validation.measure(Still(CONFIG))
    assert len(validation.real) == 4
    for name in ("", "_shuffled", "_still"):
        assert measured[f"real{name}_rotation_error"] == pytest.approx(90, abs=1)


def test_real_pairs_without_cameras_are_refused(tmp_path: Path, real: Path) -> None:
    content = json.loads((real / "b" / "pair.json").read_text())
    del content["views"][1]["cam_to_world"]
    (real / "b" / "pair.json").write_text(json.dumps(content))
    with pytest.raises(Prob3rError, match="b lacks cameras"):
        Validation(16, 2, "cpu", real=real)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Prob3rError, match="holds no pair"):
        Validation(16, 2, "cpu", real=tmp_path / "empty")


def test_everyday_rooms_are_measured_beside_the_staged_ones() -> None:
    validation = Validation(16, 4, "cpu", everyday=True)
    again = Validation(16, 4, "cpu", everyday=True)
    assert torch.equal(validation.everyday[0].view1.image, again.everyday[0].view1.image)
    measured = validation.measure(DUSt3R(CONFIG))
    assert {name for name in measured if name.startswith("everyday_")} == {
        f"everyday_{name}" for name in measured if not name.startswith("everyday_")
    }
