"""Scalars of runs that are the clean run, moved by hand."""

import math

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, project, rotation_angle, transform
from prob3r.measures.camera_motion import twist
from prob3r.measures.scalars import (
    OutputDistance,
    RegionDepth,
    Rotation,
    Sampson,
    Scalar,
    Translation,
    TruthDistance,
    metrics,
)
from prob3r.models import Prediction
from prob3r.models.protocol import Cameras
from prob3r.rooms import Rooms
from prob3r.runs.sweep import errors_of
from prob3r.scenes import Pair, View
from tests.checks import every

SCENES = 2


@pytest.fixture(scope="module")
def rooms() -> Pair:
    return Rooms("test", (32, 32), compile=False).batch(range(SCENES))


@pytest.fixture(scope="module")
def clean(rooms: Pair) -> Prediction:
    """A model that is right."""
    return Prediction(rooms.points, tuple(torch.ones_like(p[..., 0]) for p in rooms.points))


def turn(axis: Tensor, degrees: float) -> Tensor:
    """Rodrigues' formula, `(b, 3, 3)`."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    angle = math.radians(degrees)
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def rigid(rotation: Tensor, shift: Tensor) -> Tensor:
    matrix = torch.eye(4).repeat(len(rotation), 1, 1)
    matrix[:, :3, :3], matrix[:, :3, 3] = rotation, shift
    return matrix


def moved(clean: Prediction, matrix: Tensor) -> Prediction:
    """The run whose view 2 is moved as a whole."""
    return clean._replace(points=(clean.points[0], transform(clean.points[1], matrix)))


def by_head(rooms: Pair, clean: Prediction, matrix: Tensor) -> tuple[Prediction, Prediction]:
    """The clean run and a moved one of a model that says its cameras."""
    poses = rooms.cam_to_world
    after = torch.stack((poses[:, 0], matrix @ poses[:, 1]), 1)
    return clean._replace(cameras=Cameras(poses)), clean._replace(cameras=Cameras(after))


def own_axis(rooms: Pair) -> Tensor:
    rotation = rooms.view2_to_view1[:, :3, :3]
    part = rotation - rotation.mT
    turned = torch.stack((part[:, 2, 1], part[:, 0, 2], part[:, 1, 0]), -1)
    return turned / turned.norm(dim=-1, keepdim=True)


def test_the_twist_is_the_angle_about_the_axis_and_smooth_at_none() -> None:
    axis = torch.tensor([[0.6, 0.0, 0.8]])
    for degrees in (-170.0, -20.0, 0.0, 1e-3, 90.0):
        found = twist(turn(axis, degrees), axis)
        assert float(torch.rad2deg(found)) == pytest.approx(degrees, abs=1e-3)
    # A turn about another axis is none about this one.
    assert float(twist(turn(torch.tensor([[0.8, 0.0, -0.6]]), 30), axis)) == pytest.approx(0)
    still = torch.eye(3)[None].requires_grad_()
    twist(still, axis).sum().backward()
    assert still.grad is not None
    assert float(still.grad[0, 0, 2] - still.grad[0, 2, 0]) == pytest.approx(0, abs=1e-6)
    assert float(still.grad[0, 2, 1] - still.grad[0, 1, 2]) == pytest.approx(2 * 0.3, rel=1e-5)


@pytest.mark.parametrize("heads", [False, True])
def test_a_camera_that_turns_further_turns_by_so_much(
    rooms: Pair, clean: Prediction, heads: bool
) -> None:
    matrix = rigid(turn(own_axis(rooms), 10), torch.zeros(SCENES, 3))
    before, after = by_head(rooms, clean, matrix) if heads else (clean, moved(clean, matrix))
    measure = Rotation()(rooms, before)
    turned = rotation_angle(rooms.view2_to_view1[:, :3, :3])
    torch.testing.assert_close(measure(before), turned, rtol=0, atol=0.2)
    torch.testing.assert_close(
        measure(after) - turned, torch.full_like(turned, 10), rtol=0, atol=0.2
    )
    towards = Rotation(towards=after)(rooms, before)
    torch.testing.assert_close(towards(after), torch.full((SCENES,), 10.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("heads", [False, True])
def test_a_camera_that_moves_away_is_farther_by_so_much(
    rooms: Pair, clean: Prediction, heads: bool
) -> None:
    way = rooms.view2_to_view1[:, :3, 3]
    matrix = rigid(torch.eye(3).repeat(SCENES, 1, 1), way)  # twice as far
    before, after = by_head(rooms, clean, matrix) if heads else (clean, moved(clean, matrix))
    measure = Translation()(rooms, before)
    unit = torch.cat([p.flatten(1, 2) for p in before.points], 1).norm(dim=-1).mean(1)
    torch.testing.assert_close(measure(before), 100 * way.norm(dim=-1) / unit, rtol=0.02, atol=0)
    unit = torch.cat([p.flatten(1, 2) for p in after.points], 1).norm(dim=-1).mean(1)
    torch.testing.assert_close(measure(after), 200 * way.norm(dim=-1) / unit, rtol=0.02, atol=0)


def test_depth_is_that_of_the_views_own_camera(rooms: Pair, clean: Prediction) -> None:
    region = torch.zeros(32, 32, dtype=torch.bool)
    region[4:8, 10:20] = True
    unit = torch.cat([p.flatten(1, 2) for p in clean.points], 1).norm(dim=-1).mean(1)
    for number, view in enumerate(rooms.views, 1):
        assert view.depth is not None
        expected = 100 * view.depth[:, region].mean(1) / unit
        found = RegionDepth(number, region)(rooms, clean)(clean)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    # A view that is moved takes its camera along: its depth stays.
    matrix = rigid(turn(own_axis(rooms), 25), torch.zeros(SCENES, 3))
    measure = RegionDepth(2, region)(rooms, clean)
    torch.testing.assert_close(measure(moved(clean, matrix)), measure(clean), rtol=1e-4, atol=0)


def test_true_matches_have_no_sampson_distance_till_the_camera_turns(
    rooms: Pair, clean: Prediction
) -> None:
    (k1, k2), rows = (view.intrinsics for view in rooms.views), slice(0, 32, 5)
    assert k1 is not None
    assert k2 is not None
    points = rooms.points[1][:, rows, rows].flatten(1, 2)
    in_front = transform(points, torch.eye(4).repeat(SCENES, 1, 1))
    seen = (in_front[..., 2] > 0).all(0)
    pixels1 = project(points[:, seen], k1)
    pixels2 = project(transform(points[:, seen], invert_rigid(rooms.view2_to_view1)), k2)
    measure = Sampson(pixels1, pixels2)(rooms, clean)
    assert measure(clean).max() < 0.05
    matrix = rigid(turn(own_axis(rooms), 10), torch.zeros(SCENES, 3))
    assert measure(moved(clean, matrix)).min() > 0.2


def test_the_distance_to_the_truth_is_the_pointmap_error(rooms: Pair, clean: Prediction) -> None:
    off = Prediction(tuple(p + 0.3 * torch.randn_like(p) for p in clean.points), clean.confidence)
    errors = errors_of(off, rooms, off)
    for view in (1, 2):
        found = TruthDistance(view)(rooms, off)(off)
        torch.testing.assert_close(found, 100 * errors[f"pointmap_error{view}"], rtol=1e-5, atol=0)
    mean = 50 * (errors["pointmap_error1"] + errors["pointmap_error2"])
    torch.testing.assert_close(TruthDistance()(rooms, off)(off), mean, rtol=1e-5, atol=0)
    assert TruthDistance()(rooms, off)(clean).max() == pytest.approx(0, abs=1e-4)


def test_the_distance_to_another_run_is_the_mean_over_all_points(clean: Prediction) -> None:
    pair = Pair(*(View(torch.zeros(SCENES, 3, 32, 32)) for _ in range(2)))
    unit = tuple(torch.nn.functional.normalize(torch.randn_like(p), dim=-1) for p in clean.points)
    one = Prediction(unit, clean.confidence)
    other = one._replace(points=(one.points[0], -one.points[1]))
    for view, expected in ((1, 0.0), (2, 200.0), (None, 100.0)):
        found = OutputDistance(other, view)(pair, one)(one)
        torch.testing.assert_close(found, torch.full((SCENES,), expected), rtol=1e-4, atol=1e-4)


ALL = (
    Rotation(),
    Translation(),
    RegionDepth(2),
    Sampson(torch.rand(SCENES, 9, 2), torch.rand(SCENES, 9, 2)),
    TruthDistance(),
)


@pytest.mark.parametrize("scalar", ALL, ids=lambda scalar: scalar.name)
def test_a_scalar_is_differentiable_and_blind_to_scale_and_copies(
    scalar: Scalar, rooms: Pair, clean: Prediction
) -> None:
    measure = scalar(rooms, clean)
    noisy = Prediction(tuple(p + 0.1 * torch.randn_like(p) for p in clean.points), clean.confidence)
    value = measure(noisy)
    larger = noisy.map(lambda tensor: 3 * tensor)._replace(confidence=noisy.confidence)
    torch.testing.assert_close(measure(larger), value, rtol=1e-3, atol=1e-3)
    twice = noisy.map(lambda tensor: tensor.repeat(2, *[1] * (tensor.ndim - 1)))
    torch.testing.assert_close(measure(twice), value.repeat(2))
    leaf = noisy.points[1].clone().requires_grad_()
    measure(noisy._replace(points=(noisy.points[0], leaf))).sum().backward()
    assert leaf.grad is not None
    assert every(leaf.grad.isfinite())
    direction = leaf.grad / leaf.grad.norm()
    steps = [
        float(
            measure(noisy._replace(points=(noisy.points[0], leaf.detach() + s * direction))).sum()
        )
        for s in (0.05, -0.05)
    ]
    assert (steps[0] - steps[1]) / 0.1 == pytest.approx(float(leaf.grad.norm()), rel=0.05)


def test_a_sweep_measures_scalars_by_their_names(rooms: Pair, clean: Prediction) -> None:
    found = metrics([Translation(), TruthDistance()])(clean, rooms, clean)
    assert found.keys() == {"translation", "truth"}


def test_what_has_no_scalar_is_one_sentence(rooms: Pair, clean: Prediction) -> None:
    alike = clean._replace(cameras=Cameras(torch.eye(4).repeat(SCENES, 2, 1, 1)))
    with pytest.raises(Prob3rError, match="Camera 2 is not turned, so its rotation has no axis"):
        Rotation()(rooms, alike)
    with pytest.raises(Prob3rError, match="Camera 2 is where camera 1 is"):
        Translation()(rooms, alike)
    with pytest.raises(Prob3rError, match="The region is"):
        RegionDepth(1, torch.ones(3, 4, dtype=torch.bool))(rooms, clean)
    bare = Pair(*(View(view.image) for view in rooms.views))
    with pytest.raises(Prob3rError, match="No truth is known of these views"):
        TruthDistance()(bare, clean)
    nowhere = clean._replace(points=(clean.points[0], torch.zeros_like(clean.points[1])))
    with pytest.raises(Prob3rError, match="PnP finds no camera in the pointmap of view"):
        Rotation()(rooms, nowhere)
