import pytest
import torch

from prob3r import geometry
from tests.geometry.conftest import random_poses
from tests.geometry.test_cameras import turn_about_z


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_rotation_error_by_hand(degrees, generator):
    true = random_poses(1, generator)[:, :3, :3]
    error = geometry.rotation_error(true @ turn_about_z(degrees), true)
    assert error.item() == pytest.approx(degrees, abs=1e-3)


def test_translation_error_is_not_folded_and_knows_no_length():
    true = torch.tensor([[1.0, 0, 0]]).expand(4, 3)
    predicted = torch.tensor([[5.0, 0, 0], [0, 0.1, 0], [-2, 0, 0], [0, 0, 0]])
    error = geometry.translation_error(predicted, true, torch.ones(4))
    assert error.tolist() == pytest.approx([0, 90, 180, 180])


def test_translation_error_is_not_measured_on_a_short_baseline():
    true = torch.tensor([[0.019, 0, 0], [0.021, 0, 0], [0, 0, 0]])
    error = geometry.translation_error(torch.ones(3, 3), true, torch.tensor([2.0, 2, 0]))
    assert error.isnan().tolist() == [True, False, True]
    wider = geometry.translation_error(
        torch.ones(3, 3), true, torch.tensor([2.0, 2, 0]), smallest_baseline=0.1
    )
    assert wider.isnan().all()


def test_scale_error_is_alike_for_twice_and_half():
    error = geometry.scale_error(torch.tensor([2.0, 0.5, 1]), torch.ones(3))
    assert error.tolist() == pytest.approx([0.6931, 0.6931, 0], abs=1e-4)


@pytest.mark.parametrize("robust", [True, False])
def test_pose_is_read_off_a_pointmap(robust, generator):
    pose = random_poses(2, generator)
    local = torch.randn(2, 6, 7, 3, generator=generator)
    predicted = 3 * geometry.transform(local, pose)
    valid = torch.rand(2, 6, 7, generator=generator) > 0.2
    predicted[~valid] = torch.nan
    fit = geometry.pose_from_pointmap(local, predicted, valid, robust)
    assert torch.allclose(fit.scale, torch.full((2,), 3.0), atol=1e-4)
    assert torch.allclose(fit.rotation, pose[:, :3, :3], atol=1e-4)
    assert torch.allclose(fit.translation, 3 * pose[:, :3, 3], atol=1e-4)


def test_pnp_finds_the_camera_among_outliers(scene, generator):
    pose = random_poses(1, generator)
    local = geometry.unproject(scene.depth1, scene.intrinsics)
    points = geometry.transform(local, pose)[0]
    points[:10] += torch.randn(10, points.shape[1], 3, generator=generator)
    points[20] = torch.nan
    solved = geometry.pnp_pose(points, scene.intrinsics[0], max_error=0.5)
    assert torch.allclose(solved.cam_to_world, pose[0], atol=1e-3)
    assert solved.inliers[10:20].all()
    assert not solved.inliers[20].any()
    assert solved.inliers[:10].float().mean() < 0.1
    valid = torch.zeros(points.shape[:2], dtype=torch.bool)
    valid[25:] = True
    only_some = geometry.pnp_pose(points, scene.intrinsics[0], valid, max_error=0.5)
    assert torch.equal(only_some.inliers, valid)
    assert only_some.share == 1  # of the pixels that were used
    assert solved.share == pytest.approx(solved.inliers.sum() / points[..., 0].isfinite().sum())


def test_pnp_says_so_when_it_fails(scene, generator):
    noise = torch.randn(scene.points1[0].shape, generator=generator)
    k = scene.intrinsics[0]
    assert geometry.pnp_pose(noise, k, max_error=0.1, max_iterations=1000) is None
    assert geometry.pnp_pose(torch.full_like(noise, torch.nan), k) is None
    assert geometry.pnp_pose(scene.points1[0], torch.nan * k) is None
    assert geometry.pnp_pose(scene.points1[0], torch.diag(torch.tensor([-1.0, -1, 1]))) is None
    assert geometry.pnp_pose(torch.ones_like(noise), k) is None
