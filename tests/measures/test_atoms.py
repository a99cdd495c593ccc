"""What units tell of geometry, by units whose answer is known."""

import pytest
import torch
from torch import Tensor

from prob3r.geometry import invert_rigid
from prob3r.measures.atoms import (
    TESTS,
    YES_OR_NO,
    Truths,
    _edges,
    correlation,
    middle_ranks,
    score,
    scores_of,
    truths_of,
)
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, Views

PATCH = 8


@pytest.fixture(scope="module")
def rooms() -> Views:
    return Rooms("test", (64, 64), compile=False, views=3).batch(range(4))


def of(scores: Tensor, name: str) -> Tensor:
    return scores[:, TESTS.index(name)]


def test_middle_ranks_share_the_rank_of_equals() -> None:
    found = middle_ranks(torch.tensor([[5.0], [0.0], [0.0], [7.0]]))[:, 0]
    assert found.tolist() == [2.5, 1.0, 1.0, 3.5]


def test_scores_of_yes_or_no_are_areas_under_the_curve() -> None:
    codes = torch.tensor([[0.0, 3.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    floor = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    truths = Truths({"floor": floor, "depth": torch.ones(1, 4)}, None, [])
    found = of(score([codes[None]], truths, torch.tensor([-1])).true, "floor")
    assert found[0].tolist() == [1.0, -1.0, 0.0]


def test_a_constant_unit_tells_nothing() -> None:
    assert correlation(torch.ones(5, 1), torch.arange(5.0)[:, None]).tolist() == [0.0]
    assert correlation(torch.ones(1, 1), torch.ones(1, 1)).isnan().all()


def test_units_that_are_the_truth_tell_it_and_not_that_of_another_scene(rooms: Views) -> None:
    truths = truths_of(rooms, PATCH)
    assert set(truths.values) == set(TESTS[:7])
    units = torch.stack([truths.values[name].nan_to_num() for name in TESTS[:7]], -1)
    found = scores_of(list(units.split(units.shape[1] // 3, 1)), rooms, PATCH)
    for number, name in enumerate(TESTS[:7]):
        assert of(found.true, name)[:, number].nanmean() > 0.98
        assert of(found.control, name)[:, number].nanmean() < 0.75


def test_a_unit_that_is_the_object_tells_the_instance(rooms: Views) -> None:
    truths = truths_of(rooms, PATCH)
    assert truths.labels is not None
    codes = [shown[..., None].float() for shown in truths.labels]
    found = scores_of(codes, rooms, PATCH)
    true, control = of(found.true, "instance")[:, 0], of(found.control, "instance")[:, 0]
    assert true.nanmean() > 0.99
    assert control.nanmean() < 0.6


def test_a_unit_that_is_the_place_of_the_point_tells_the_match(rooms: Views) -> None:
    codes = [
        torch.nan_to_num(points)[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(1, 2)
        for points in rooms.points
    ]
    found = scores_of(codes, rooms, PATCH)
    assert of(found.true, "match").nanmean() > 0.9
    assert of(found.control, "match").nanmean() < 0.5


def test_the_floor_is_where_the_scene_is_lowest(rooms: Views) -> None:
    truths = truths_of(rooms, PATCH)
    pair = rooms.pair(1, 2)
    height = (pair.view2.points @ pair.view2.cam_to_world[:, None, :3, :3].mT)[..., 2]
    height = height + pair.view2.cam_to_world[:, None, None, 2, 3]
    centres = height[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(1)
    floor = truths.values["floor"][:, 64:128]
    assert (centres[floor == 1] < 0.05).all()
    assert (centres[floor == 0] > -0.01).all()


def test_a_plane_has_no_edge_however_steep_and_a_step_has_one() -> None:
    rows = torch.arange(1, 9.0)
    plane = (1 / rows).expand(1, 8, 8)
    assert not _edges(plane, torch.ones(1, 8, 8, dtype=torch.bool)).any()
    step = torch.ones(1, 8, 8)
    step[..., 4:] = 2.0
    found = _edges(step, torch.ones(1, 8, 8, dtype=torch.bool))
    assert found.any(1)[0].nonzero()[:, 0].tolist() == [3, 4]


def test_scenes_without_labels_have_no_floor_and_no_instances(rooms: Views) -> None:
    bare = rooms.with_each(
        lambda v: type(v)(v.image, v.intrinsics, v.cam_to_world, v.depth, v.valid)
    )
    codes = [torch.rand(4, 64, 5) for _ in range(3)]
    found = scores_of(codes, bare, PATCH)
    assert of(found.true, "floor").isnan().all()
    assert of(found.true, "instance").isnan().all()
    assert of(found.true, "depth").isfinite().all()


def test_chance_is_zero(rooms: Views) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = [torch.rand(4, 64, 200, generator=generator) for _ in range(3)]
    found = scores_of(codes, rooms, PATCH).true
    for name in (*YES_OR_NO, "depth", "match"):
        assert of(found, name).nanmean().abs() < 0.02


def test_the_second_view_of_a_pair_is_enough() -> None:
    pair = Rooms("test", (64, 64), compile=False).batch([0])
    assert isinstance(pair, Pair)
    assert invert_rigid(pair.view2_to_view1).isfinite().all()
    found = scores_of([torch.rand(1, 64, 3)] * 2, pair, PATCH)
    assert found.control[:, : len(YES_OR_NO)].isnan().all()  # there is no other scene
    assert of(found.true, "covisible").isfinite().all()
