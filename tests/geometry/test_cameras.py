import math

import pytest
import torch
import torch.nn.functional as F

from prob3r import geometry
from tests.geometry.conftest import random_poses


def turn_about_z(degrees: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=dtype)


def test_project_by_hand_and_behind_the_camera():
    intrinsics = torch.tensor([[[10.0, 0, 3], [0, 20, 4], [0, 0, 1]]])
    points = torch.tensor([[[1.0, 2, 2], [0, 0, 5], [1, 1, 0], [1, 1, -1]]])
    pixels = geometry.project(points, intrinsics)
    assert pixels[0, :2].tolist() == [[8, 24], [3, 4]]
    assert pixels[0, 2:].isnan().all()


def test_crop_moves_the_same_point_to_the_same_content():
    intrinsics = torch.tensor([[[10.0, 0, 3], [0, 20, 4], [0, 0, 1]]])
    points = torch.tensor([[[0.3, 0.2, 2.0]]])
    before = geometry.project(points, intrinsics)
    after = geometry.project(points, geometry.crop_intrinsics(intrinsics, 2, 1))
    assert torch.allclose(before - after, torch.tensor([2.0, 1]))
    assert intrinsics[0, 0, 2] == 3  # the input is left alone


def test_resize_agrees_with_what_resampling_does_to_positions():
    """Shrink an image that holds its own pixel positions, and project into both."""
    intrinsics = torch.tensor([[[10.0, 0, 5.5], [0, 20, 3.5], [0, 0, 1]]])
    positions = geometry.pixel_grid(8, 12).permute(2, 0, 1)[None]
    small = F.interpolate(positions, size=(4, 6), mode="area")
    resized = geometry.resize_intrinsics(intrinsics, (8, 12), (4, 6))
    rays = geometry.unproject(torch.ones(1, 4, 6), resized)
    assert torch.allclose(geometry.project(rays, intrinsics).permute(0, 3, 1, 2), small, atol=1e-5)


def test_resize_there_and_back_is_the_identity():
    intrinsics = torch.tensor([[[10.0, 0, 5.2], [0, 20, 3.1], [0, 0, 1]]])
    there = geometry.resize_intrinsics(intrinsics, (8, 12), (6, 30))
    assert torch.allclose(geometry.resize_intrinsics(there, (6, 30), (8, 12)), intrinsics)


@pytest.mark.parametrize("unit", [1.0, 0.01])
def test_focal_is_read_off_a_pointmap_with_outliers(unit, generator):
    depth = torch.rand(3, 20, 24, generator=generator) + 1
    intrinsics = torch.eye(3).repeat(3, 1, 1)
    focal = torch.tensor([15.0, 30, 60])
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = torch.tensor([11.5, 9.5])
    points = unit * geometry.unproject(depth, intrinsics)
    assert torch.allclose(geometry.focal_from_pointmap(points), focal, rtol=1e-4)
    points[:, :6] = points[:, :6, torch.randperm(24, generator=generator)]
    points[:, 19, :8, 2] = torch.tensor([-1.0, 0, 1e-30, 1e-6, -1e-6, 1e-3, -1e-3, 0])
    assert torch.allclose(geometry.focal_from_pointmap(points), focal, rtol=1e-2)


def test_focal_uses_weights_and_principal_point(generator):
    intrinsics = torch.tensor([[[30.0, 0, 4], [0, 30, 12], [0, 0, 1]]])
    points = geometry.unproject(torch.rand(1, 16, 16, generator=generator) + 1, intrinsics)
    points[:, 3:] = torch.nan
    weights = torch.zeros(1, 16, 16)
    weights[:, :3] = 1
    focal = geometry.focal_from_pointmap(points, weights, intrinsics[:, :2, 2])
    assert focal.item() == pytest.approx(30, rel=1e-4)
    assert geometry.focal_from_pointmap(points, 0 * weights).isnan()


def test_focal_minimises_the_sum_of_distances(generator):
    """Against a search over focal lengths, on points without any true one."""
    points = torch.randn(1, 8, 8, 3, generator=generator) + torch.tensor([0, 0, 4.0])
    weights = torch.rand(1, 8, 8, generator=generator)
    offsets = geometry.pixel_grid(8, 8) - 3.5
    slopes = points[0, ..., :2] / points[0, ..., 2:]
    candidates = torch.linspace(-20, 40, 60_001)
    distance = (offsets[..., None] - candidates * slopes[..., None]).norm(dim=2)
    best = candidates[(weights[0, ..., None] * distance).sum(dim=(0, 1)).argmin()]
    focal = geometry.focal_from_pointmap(points, weights, iterations=200)
    assert focal.item() == pytest.approx(best.item(), abs=0.01)


@pytest.mark.parametrize("degrees", [0, 1e-3, 1, 90, 179, 179.999, 180])
def test_rotation_angle_is_exact_over_its_whole_range(degrees):
    angle = geometry.rotation_angle(turn_about_z(degrees)[None])
    assert angle.item() == pytest.approx(degrees, abs=1e-4)


def test_relative_pose_takes_camera_2_to_camera_1(generator):
    pose1, pose2 = random_poses(3, generator), random_poses(3, generator)
    local = torch.randn(3, 7, 3, generator=generator)
    in_1 = geometry.transform(local, geometry.relative_pose(pose1, pose2))
    world = geometry.transform(local, pose2)
    assert torch.allclose(geometry.transform(in_1, pose1), world, atol=1e-5)


def test_rotation_between_does_not_depend_on_the_world(generator):
    world = random_poses(1, generator)
    pose1, pose2 = torch.eye(4)[None].clone(), torch.eye(4)[None].clone()
    pose1[0, :3, :3], pose2[0, :3, :3] = turn_about_z(20), turn_about_z(-13)
    assert geometry.rotation_between(world @ pose1, world @ pose2).item() == pytest.approx(
        33, abs=1e-3
    )
