import pytest
import torch

from prob3r import geometry
from prob3r.errors import Prob3rError
from tests.geometry.conftest import random_poses


def test_unproject_by_hand():
    intrinsics = torch.tensor([[[2.0, 0, 1], [0, 4, 0], [0, 0, 1]]])
    points = geometry.unproject(torch.full((1, 2, 3), 8.0), intrinsics)
    assert points[0, 0, 0].tolist() == [-4, 0, 8]
    assert points[0, 1, 2].tolist() == [4, 2, 8]


def test_projection_undoes_unprojection(generator):
    depth = torch.rand(3, 6, 5, generator=generator) + 0.5
    intrinsics = torch.eye(3).repeat(3, 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = 30, torch.tensor([20.0, 40, 60])
    intrinsics[:, :2, 2] = torch.rand(3, 2, generator=generator) * 5
    pixels = geometry.project(geometry.unproject(depth, intrinsics), intrinsics)
    assert torch.allclose(pixels, geometry.pixel_grid(6, 5).expand_as(pixels), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 7, 3), (4, 2, 5, 3)])
def test_inverse_motion_brings_points_back(shape, generator):
    pose = random_poses(4, generator)
    points = torch.randn(shape, generator=generator)
    moved = geometry.transform(points, pose)
    expected = pose[0, :3, :3] @ points[0].reshape(-1, 3)[0] + pose[0, :3, 3]
    assert torch.allclose(moved[0].reshape(-1, 3)[0], expected, atol=1e-6)
    back = geometry.transform(moved, geometry.invert_rigid(pose))
    assert torch.allclose(back, points, atol=1e-5)


def test_norm_factor_is_the_mean_over_both_views_together():
    points1 = torch.tensor([3.0, 4, 0]).expand(1, 1, 2, 3)  # distance 5
    points2 = torch.tensor([0.0, 0, 2]).expand(1, 2, 2, 3)  # distance 2
    valid1 = torch.tensor([[[True, False]]])
    valid2 = torch.tensor([[[True, True], [False, False]]])
    factor = geometry.norm_factor([points1, points2], [valid1, valid2])
    assert factor.item() == pytest.approx((5 + 2 + 2) / 3)


def test_norm_factor_ignores_what_is_not_valid_and_survives_nothing_valid():
    points = torch.ones(2, 1, 2, 3)
    points[:, 0, 0] = torch.nan
    points.requires_grad_()
    valid = torch.tensor([[[False, True]], [[False, False]]])
    factor = geometry.norm_factor([points], [valid])
    assert factor.tolist() == pytest.approx([3**0.5, 1])
    factor.sum().backward()
    assert points.grad.isfinite().all()
    zero = geometry.norm_factor([torch.zeros(1, 2, 2, 3)], [torch.ones(1, 2, 2, dtype=torch.bool)])
    assert zero > 0


def test_norm_factor_refuses_a_missing_mask():
    with pytest.raises(Prob3rError, match="`points` holds 2 pointmaps and `valid` 1"):
        geometry.norm_factor([torch.ones(1, 1, 1, 3)] * 2, [torch.ones(1, 1, 1, dtype=torch.bool)])


def test_normalised_pointmaps_forget_the_unit_and_keep_the_shape(generator):
    views = [torch.randn(2, 3, 4, 3, generator=generator) for _ in range(2)]
    valid = [torch.rand(2, 3, 4, generator=generator) > 0.3 for _ in range(2)]
    normalised = geometry.normalise(views, valid)
    bigger = geometry.normalise([7 * view for view in views], valid)
    assert torch.allclose(geometry.norm_factor(normalised, valid), torch.ones(2))
    for one, other, view in zip(normalised, bigger, views, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.allclose(one / view, (normalised[0] / views[0])[:, :1, :1, :1], atol=1e-5)


def test_patch_centres_lie_in_their_own_patch():
    centres = geometry.patch_centres(2, 3, 8)
    assert centres[0].tolist() == [3.5, 3.5]
    assert centres[4].tolist() == [11.5, 11.5]
    index, inside = geometry.patch_of_pixels(centres, 2, 3, 8)
    assert index.tolist() == list(range(6))
    assert inside.all()


def test_patch_of_pixels_at_the_borders():
    nan = torch.nan
    pixels = torch.tensor(
        [[-0.5, 0], [-0.6, 0], [7.4, 0], [7.5, 0], [15.4, 7], [15.6, 7], [nan, 0]]
    )
    index, inside = geometry.patch_of_pixels(pixels, 1, 2, 8)
    assert index.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert inside.tolist() == [True, False, True, True, True, False, False]


def test_patchify_orders_rows_first_and_is_undone(generator):
    pixels = torch.randn(2, 4, 6, 3, generator=generator)
    patches = geometry.patchify(pixels, 2)
    assert torch.equal(patches[:, 4], pixels[:, 2:4, 2:4].reshape(2, 4, 3))
    assert torch.equal(geometry.unpatchify(patches, 4, 6), pixels)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(Prob3rError, match="5x6 pixels"):
        geometry.patchify(torch.zeros(1, 5, 6, 3), 2)
    with pytest.raises(Prob3rError, match="don't fill 4x8 pixels"):
        geometry.unpatchify(torch.zeros(1, 6, 4, 3), 4, 8)


def test_the_mean_depth_is_over_the_valid_points_of_all_views() -> None:
    first, second = torch.zeros(1, 1, 2, 3), torch.zeros(1, 2, 2, 3)
    first[..., 2] = torch.tensor([2.0, torch.nan])
    second[..., 2] = torch.tensor([[4.0, 6.0], [100.0, 8.0]])
    valid1 = torch.tensor([[[True, False]]])
    valid2 = torch.tensor([[[True, True], [False, True]]])
    assert geometry.mean_depth((first, second), (valid1, valid2)).item() == 5


def test_a_point_is_finite_if_all_its_coordinates_are():
    points = torch.zeros(1, 2, 2, 3)
    points[0, 0, 1, 2], points[0, 1, 0, 0] = torch.nan, -torch.inf
    assert geometry.finite(points).tolist() == [[[True, False], [False, True]]]
