from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prob3r import geometry
from prob3r.geometry import PoseAndShape
from tests.geometry.conftest import Scene, random_poses
from tests.geometry.test_cameras import turn_about_z


def judge(scene: Scene, predicted1: Tensor, predicted2: Tensor, **options: bool) -> PoseAndShape:
    return geometry.pose_and_shape(
        predicted1,
        predicted2,
        scene.points1,
        scene.points2,
        scene.valid,
        scene.valid,
        scene.pose2_to_1,
        **options,
    )


def moved(scene: Scene, pose: Tensor, scale: float = 1.0) -> Tensor:
    """View 2's true points, as a model would place them that believes in another pose."""
    local = geometry.unproject(scene.depth2, scene.intrinsics)
    return geometry.transform(scale * local, pose)


def test_pointmap_error_is_a_mean_over_valid_pixels():
    true = torch.zeros(2, 1, 2, 3)
    predicted = torch.tensor([[3.0, 4, 0], [torch.nan, 0, 0]]).expand(2, 1, 2, 3)
    valid = torch.tensor([[[True, False]], [[False, False]]])
    error = geometry.pointmap_error(predicted, true, valid)
    assert error[0] == 5
    assert error[1].isnan()


@pytest.mark.parametrize("robust", [True, False])
def test_the_truth_has_no_error_in_any_unit(scene, robust):
    errors = judge(scene, 7 * scene.points1, 7 * scene.points2, robust=robust)
    for name, error in errors._asdict().items():
        assert error.item() == pytest.approx(0, abs=1e-2 if "ation" in name else 1e-4), name


def test_a_wrong_pose_is_told_from_a_wrong_shape(scene):
    pose = scene.pose2_to_1.clone()
    pose[0, :3, :3] = turn_about_z(30)
    errors = judge(scene, scene.points1, moved(scene, pose))
    assert errors.rotation_error.item() == pytest.approx(30, abs=1e-2)
    assert errors.shape_error.item() == pytest.approx(0, abs=1e-4)
    assert errors.pose_part.item() == pytest.approx(errors.pointmap_error2.item(), abs=1e-4)
    assert errors.pointmap_error2 > 0.05


def test_a_wrong_shape_is_told_from_a_wrong_pose(scene, generator):
    noise = 0.1 * torch.randn(scene.points2.shape, generator=generator)
    errors = judge(scene, scene.points1, scene.points2 + noise)
    assert errors.rotation_error < 1
    assert errors.scale_error < 0.02
    unit = geometry.norm_factor([scene.points1, scene.points2], [scene.valid, scene.valid])
    expected = noise.norm(dim=-1).mean() / unit
    assert errors.shape_error.item() == pytest.approx(expected.item(), rel=0.05)


def test_scale_error_compares_view_2_with_the_pair(scene):
    """View 2 twice too large about its own camera, in a pair whose joint scale then changes."""
    predicted2 = moved(scene, scene.pose2_to_1, scale=2)
    errors = judge(scene, scene.points1, predicted2)
    views = [scene.valid, scene.valid]
    growth = geometry.norm_factor([scene.points1, predicted2], views) / geometry.norm_factor(
        [scene.points1, scene.points2], views
    )
    assert errors.scale_error.item() == pytest.approx((2 / growth).log().item(), abs=1e-3)


def test_translation_in_the_opposite_direction_is_180_degrees_off(scene):
    pose = scene.pose2_to_1.clone()
    pose[0, :3, 3] *= -1
    errors = judge(scene, scene.points1, moved(scene, pose))
    assert errors.translation_error.item() == pytest.approx(180, abs=0.1)


def test_a_short_baseline_has_no_translation_error(scene):
    truth = (scene.points1, scene.points2, scene.valid, scene.valid, scene.pose2_to_1)
    near = geometry.pose_and_shape(*truth[:2], *truth, smallest_baseline=0.2)
    assert near.translation_error.isnan()
    far = geometry.pose_and_shape(*truth[:2], *truth, smallest_baseline=0.1)
    assert far.translation_error < 1  # baseline 0.5 at a mean depth just under 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), unit=st.floats(0.01, 100))
def test_any_prediction(seed, unit):
    """No unit, a sum no smaller than the whole, and a batch as its pairs one by one."""
    generator = torch.Generator().manual_seed(seed)
    b = 3
    truth = [torch.randn(b, 4, 5, 3, generator=generator) for _ in range(2)]
    predicted = [t + 0.3 * torch.randn(t.shape, generator=generator) for t in truth]
    valid = [torch.rand(b, 4, 5, generator=generator) > 0.2 for _ in range(2)]
    arguments = [*predicted, *truth, *valid, random_poses(b, generator)]
    errors = geometry.pose_and_shape(*arguments)
    rescaled = geometry.pose_and_shape(*(unit * p for p in predicted), *arguments[2:])
    whole = errors.pointmap_error2
    assert (whole <= errors.pose_part + errors.shape_error + 1e-5).all()
    for one, other in zip(errors, rescaled, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True)
    for i in range(b):
        alone = geometry.pose_and_shape(*(a[i : i + 1] for a in arguments))
        for one, other in zip(errors, alone, strict=True):
            assert torch.allclose(one[i : i + 1], other, rtol=1e-2, atol=1e-2, equal_nan=True)


def test_too_few_points_in_view_2_are_no_measurement(scene):
    valid2 = torch.zeros_like(scene.valid)
    valid2[0, 0, :2] = True
    points1, points2 = scene.points1, scene.points2.where(valid2[..., None], torch.nan)
    errors = geometry.pose_and_shape(
        points1, points2, points1, points2, scene.valid, valid2, scene.pose2_to_1
    )
    assert errors.pointmap_error1.item() == pytest.approx(0, abs=1e-5)
    assert errors.pointmap_error2.item() == pytest.approx(0, abs=1e-5)
    assert torch.stack(errors[2:]).isnan().all()


def test_pose_error_is_the_larger_one_that_was_measured():
    error = geometry.pose_error(torch.tensor([3.0, 3, 3]), torch.tensor([5.0, 1, torch.nan]))
    assert error.tolist() == [5, 3, 3]


@pytest.mark.parametrize(
    ("errors", "area"),
    [
        ([0, 0, 0], 1),
        ([20, torch.inf], 0),
        ([5], 0.75),  # up to 1 at 5 degrees, then level: (2.5 + 5) / 10
        ([5, torch.inf], 0.375),
        ([5, torch.nan], 0.75),
        ([2, 4], 0.8),  # up to 0.5 at 2, up to 1 at 4, then level: (0.5 + 1.5 + 6) / 10
        ([10], 0.5),
    ],
)
def test_auc_by_hand(errors, area):
    found = geometry.auc(torch.tensor(errors, dtype=torch.float64), threshold=10)
    assert found.item() == pytest.approx(area)


def slow_auc(errors: list[float], threshold: float) -> float:
    """One trapezoid after another, over the recall curve cut off at the threshold."""
    errors = sorted(errors)
    area = last_error = last_recall = 0.0
    for k, error in enumerate(errors, start=1):
        if error > threshold:
            break
        area += (error - last_error) * (last_recall + k / len(errors)) / 2
        last_error, last_recall = error, k / len(errors)
    return (area + (threshold - last_error) * last_recall) / threshold


@given(
    errors=st.lists(st.floats(0, 40) | st.just(torch.inf), min_size=1, max_size=20),
    threshold=st.sampled_from([5.0, 10.0, 20.0]),
)
def test_auc_against_the_slow_reference(errors, threshold):
    together = torch.tensor([errors, errors[::-1]], dtype=torch.float64)
    found = geometry.auc(together, threshold)
    assert found.tolist() == pytest.approx([slow_auc(errors, threshold)] * 2)
    assert 0 <= found[0] <= 1


def test_auc_of_nothing_is_nan():
    assert geometry.auc(torch.tensor([torch.nan, torch.nan]), 5).isnan()
    assert geometry.auc(torch.zeros(0), 5).isnan()


def test_median_leaves_nan_out_and_counts_failures():
    nan, inf = torch.nan, torch.inf
    values = torch.tensor([[3.0, 1, 2, 4], [nan, 1, 5, inf], [nan, nan, 1, 2], [nan] * 4])
    assert geometry.median(values)[:3].tolist() == [2.5, 5, 1.5]
    assert geometry.median(values)[3].isnan()


def test_bootstrap_interval_of_a_mean_matches_theory(generator):
    values = 3 + 2 * torch.randn(400, generator=generator)
    found = geometry.bootstrap_interval(values, partial(torch.mean, dim=-1), generator=generator)
    half = 1.96 * values.std().item() / 400**0.5
    assert found.value == pytest.approx(values.mean().item(), abs=1e-5)
    assert found.low == pytest.approx(found.value - half, abs=0.15 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.15 * half)


def test_bootstrap_interval_is_the_same_for_the_same_seed_and_ignores_nan(generator):
    values = torch.rand(50, generator=generator)
    holed = torch.cat([values, torch.full((20,), torch.nan)])
    one, other = (
        geometry.bootstrap_interval(v, generator=torch.Generator().manual_seed(3))
        for v in (values, holed)
    )
    assert one == other
    assert one.low < one.value < one.high


def test_bootstrap_interval_of_auc_failures_and_nothing(generator):
    errors = torch.tensor([1.0, 2, torch.inf, torch.inf, 3])
    auc = geometry.bootstrap_interval(
        errors, partial(geometry.auc, threshold=5), generator=generator
    )
    assert 0 <= auc.low < auc.value < auc.high <= 1
    assert geometry.bootstrap_interval(errors, generator=generator).high == torch.inf
    empty = geometry.bootstrap_interval(errors[:0], generator=generator)
    assert all(end != end for end in empty)


@given(st.integers(1, 6), st.integers(0, 5))
def test_bootstrapped_columns_share_their_pairs(columns, seed):
    values = torch.rand(9, columns, generator=torch.Generator().manual_seed(seed))
    whole, first = (
        geometry.bootstrap(v, draws=20, generator=torch.Generator().manual_seed(seed))
        for v in (values, values[:, :1])
    )
    assert whole.shape == (20, columns)
    assert torch.equal(whole[:, :1], first)


def test_bootstrap_is_the_same_in_any_chunks(generator, monkeypatch):
    values = torch.rand(7, 3, generator=generator)
    at_once, in_parts = [], []
    for found, most in ((at_once, 2**24), (in_parts, 100)):
        monkeypatch.setattr("prob3r.geometry.metrics._BOOTSTRAP_ELEMENTS", most)
        draw = torch.Generator().manual_seed(1)
        found.append(geometry.bootstrap(values, partial(torch.mean, dim=-1), 50, generator=draw))
    assert torch.equal(at_once[0], in_parts[0])


def test_percentiles_are_order_statistics_that_leave_nan_out():
    drawn = torch.arange(41.0)[:, None].repeat(1, 2)
    drawn[-2:, 1] = torch.inf
    drawn = torch.cat([drawn, torch.full((9, 2), torch.nan)])
    low, high = geometry.percentiles(drawn, level=0.9)
    assert low.tolist() == [2, 2]
    assert high.tolist() == [38, 38]
    assert geometry.percentiles(drawn, level=0.97)[1].tolist() == [40, torch.inf]
    assert geometry.percentiles(torch.full((4,), torch.nan))[0].isnan()
