"""Metrics of protocols where golden values do not reach: failures, edges, cases by hand."""

import math

import pytest
import torch

from prob3r.geometry import (
    PointTree,
    align_depth,
    auc,
    auc_binned,
    cloud_errors,
    depth_errors,
    matches_by_descriptors,
    matches_by_points,
    normals,
    pixel_grid,
    reciprocal_matches,
    register,
    relative_pose_errors,
    trajectory_errors,
    transfer,
    transform,
)
from prob3r.geometry.depth_errors import DepthFit
from tests.geometry import made_up


def line(*positions: float) -> torch.Tensor:
    """Cameras that look one way, along x."""
    poses = torch.eye(4, dtype=torch.float64).repeat(1, len(positions), 1, 1)
    poses[0, :, 0, 3] = torch.tensor(positions, dtype=torch.float64)
    return poses


def test_an_opposite_direction_is_right_only_if_folded() -> None:
    folded = relative_pose_errors(line(0, -1, 3), line(0, 1, 2), folded=True)
    signed = relative_pose_errors(line(0, -1, 3), line(0, 1, 2), folded=False)
    assert folded.translation.tolist() == [[0, 0, 0]]
    assert signed.translation.tolist() == [[180, 0, 0]]  # pairs 1 2, 1 3, 2 3
    assert folded.rotation.tolist() == signed.rotation.tolist() == [[0, 0, 0]]


def test_no_motion_has_no_direction() -> None:
    for folded, worst in ((True, 90), (False, 180)):
        errors = relative_pose_errors(line(0, 0), line(0, 1), folded=folded)
        assert errors.translation.tolist() == [[worst]]


def test_a_failed_camera_fails_its_pairs_alone() -> None:
    predicted = line(0, 1, 2)
    predicted[0, 1] = torch.nan
    errors = relative_pose_errors(predicted, line(0, 1, 2), folded=True)
    assert errors.translation.tolist() == errors.rotation.tolist() == [[math.inf, 0, math.inf]]


def test_the_binned_area_by_hand() -> None:
    # Below 1, 2, 3, 4 degrees: none, one, two (2.0 counts in the third), two of four errors.
    errors = torch.tensor([1.5, 2.0, 9.0, torch.inf])
    assert auc_binned(errors, 4) == pytest.approx((0 + 1 + 2 + 2) / 4 / 4)
    assert auc_binned(torch.tensor([4.0]), 4) == pytest.approx(1 / 4)
    many = torch.linspace(0.005, 9.995, 1000, dtype=torch.float64)
    assert float(auc(many, 5) - auc_binned(many, 5)) == pytest.approx(-0.05, abs=1e-3)


def test_a_trajectory_is_right_up_to_a_similarity() -> None:
    _, true = map(torch.from_numpy, made_up.cameras(6, 0.1, 0))
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.from_numpy(made_up.rotation(true[1, :3, 3].numpy()))
    moved = true.clone()
    moved[:, :3, 3] *= 3
    errors = trajectory_errors((turn @ moved)[None], true[None])
    assert [float(e) for e in errors] == pytest.approx([0, 0, 0], abs=1e-6)
    moved[2] = torch.nan
    assert all(math.isinf(e) for e in trajectory_errors(moved[None], true[None]))


def test_steps_that_turn_too_far_count_as_rotation() -> None:
    predicted, true = line(0, 1, 2), line(0, 1, 2)
    turned = torch.from_numpy(made_up.rotation(torch.tensor([0, 0, math.pi / 6]).numpy()))
    predicted[0, 2, :3, :3] = turned
    ate, translation, rotation = (float(e) for e in trajectory_errors(predicted, true))
    assert (ate, translation) == pytest.approx((0, 0), abs=1e-9)
    assert rotation == pytest.approx(30 / math.sqrt(2))  # of two steps, one is off


def test_nearest_points_are_those_of_all_distances() -> None:
    cloud, asked = torch.rand(2, 50, 3).unbind(0)
    near = PointTree(cloud).nearest(asked, 4)
    distance, row = torch.cdist(asked, cloud).topk(4, largest=False)
    assert torch.equal(near.rows, row)
    torch.testing.assert_close(near.distance, distance)


def test_a_plane_has_one_normal() -> None:
    points = torch.cat([torch.rand(80, 2), torch.zeros(80, 1)], dim=1)
    assert normals(points)[:, 2].abs() == pytest.approx(1, abs=1e-4)
    assert normals(points[:2]).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_registration_undoes_a_small_motion() -> None:
    _, cloud = map(torch.from_numpy, made_up.clouds(1))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = torch.from_numpy(made_up.rotation(torch.tensor([0.0, 0.01, 0]).numpy()))
    motion[2, 3] = 0.01
    found = register(transform(cloud[None], motion[None])[0], cloud, 0.1)
    torch.testing.assert_close(found @ motion, torch.eye(4, dtype=torch.float64), atol=1e-4, rtol=0)
    far = register(cloud + 9, cloud, 0.1)  # nothing corresponds
    assert torch.equal(far, torch.eye(4, dtype=torch.float64))


def test_clouds_by_hand() -> None:
    near = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    far = torch.cat([near + torch.tensor([0, 0, 0.5]), torch.tensor([[0.0, 0, 4.5]])])
    errors = cloud_errors(near, far)
    assert errors.accuracy == errors.accuracy_median == pytest.approx(0.5)
    assert errors.completeness == pytest.approx((4 * 0.5 + 4.5) / 5)
    assert errors.completeness_median == pytest.approx(0.5)


def test_depths_by_hand() -> None:
    true = torch.tensor([1.0, 2, 4])
    half = DepthFit(2.0, 0.0)
    errors = depth_errors(torch.tensor([0.5, 1, 3]), true, half)
    assert [float(e) for e in errors] == pytest.approx([0.5 / 3, 2 / 3])
    clipped = depth_errors(torch.tensor([0.5, 1, 3]), true, half, farthest=4)
    assert [float(e) for e in clipped] == pytest.approx([0, 1])
    behind = depth_errors(torch.tensor([-0.5, 1, 2]), true, half)
    assert float(behind.delta) == pytest.approx(2 / 3)
    assert align_depth(torch.tensor([1.0, 2, 9]), 3 * torch.tensor([1.0, 2, 9]), "scale") == (
        pytest.approx((3, 0))
    )


def test_a_homography_behind_the_camera_leads_nowhere() -> None:
    flip = torch.diag(torch.tensor([1.0, 1, -1]))
    assert transfer(torch.tensor([[3.0, 4]]), flip).isnan().all()
    shift = torch.tensor([[1.0, 0, 2], [0, 1, -1], [0, 0, 1]])
    assert transfer(torch.tensor([[3.0, 4]]), shift).tolist() == [[5, 3]]


def test_matches_of_a_shifted_view_are_the_shift() -> None:
    wide = torch.rand(6, 12, 3)
    expected = pixel_grid(6, 8) + torch.tensor([4, 0])
    assert torch.equal(matches_by_points(wide[:, 4:], wide), expected)
    described = torch.nn.functional.normalize(torch.randn(6, 12, 16), dim=-1)
    assert torch.equal(matches_by_descriptors(described[:, 4:], described), expected)


@pytest.mark.parametrize("step", [1, 3])
def test_reciprocal_matches_are_those_that_come_back(step: int) -> None:
    one, two = (torch.nn.functional.normalize(torch.randn(n, 8, 4), dim=-1) for n in (5, 6))
    products = one.flatten(0, 1) @ two.flatten(0, 1).mT
    expected = {
        (int(i) % 8, int(i) // 8, j % 8, j // 8)
        for j, i in enumerate(products.argmax(0))
        if products[i].argmax() == j and j // 8 % step == j % 8 % step == step // 2
    }
    found = reciprocal_matches(two, one, step)
    rows = torch.cat(found, dim=1).int().tolist()
    assert len(rows) == len(expected) > 0
    assert {tuple(row) for row in rows} == expected


def test_what_a_view_does_not_show_has_no_reciprocal_match() -> None:
    wide = torch.nn.functional.normalize(torch.randn(4, 9, 16), dim=-1)
    pixels1, pixels2 = reciprocal_matches(wide, wide[:, 3:])
    assert torch.equal(pixels2, pixels1 + torch.tensor([3, 0]))
    assert len(pixels1) == 4 * 6
