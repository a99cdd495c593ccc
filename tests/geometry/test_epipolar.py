import torch

from prob3r import geometry
from tests.geometry.conftest import random_poses


def two_views(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random fundamental matrices, and the images of points in both views."""
    b, n = 3, 40
    pose2_to_1 = random_poses(b, generator, torch.float64)
    intrinsics1, intrinsics2 = torch.eye(3).double().repeat(2, b, 1, 1)
    intrinsics1[:, 0, 0], intrinsics1[:, 1, 1] = 40, 50
    intrinsics1[:, :2, 2], intrinsics2[:, :2, 2] = 20, 17
    local2 = torch.randn(b, n, 3, dtype=torch.float64, generator=generator)
    local1 = geometry.transform(local2, pose2_to_1)
    pixels1 = geometry.project(local1.where(local1[..., 2:] > 0.1, torch.ones(3)), intrinsics1)
    pixels2 = geometry.project(local2.where(local2[..., 2:] > 0.1, torch.ones(3)), intrinsics2)
    seen = (local1[..., 2] > 0.1) & (local2[..., 2] > 0.1)
    fundamental = geometry.fundamental(geometry.essential(pose2_to_1), intrinsics1, intrinsics2)
    return fundamental, pixels1.where(seen[..., None], torch.nan), pixels2


def test_true_matches_are_on_their_epipolar_lines(generator):
    fundamental, pixels1, pixels2 = two_views(generator)
    seen = pixels1.isfinite().all(dim=-1)
    assert seen.sum() > 20
    for distance in (geometry.epipolar_distance, geometry.sampson_distance):
        assert distance(fundamental, pixels1, pixels2)[seen].max() < 1e-8


def test_distance_of_a_sideways_motion_is_the_difference_in_rows(scene):
    fundamental = geometry.fundamental(
        geometry.essential(scene.pose2_to_1), scene.intrinsics, scene.intrinsics
    )
    pixels1 = torch.tensor([[[[3.0, 7], [30, 12]]]])
    pixels2 = torch.tensor([[[[9.0, 7], [20, 9]]]])
    distance = geometry.epipolar_distance(fundamental, pixels1, pixels2)
    assert torch.allclose(distance, torch.tensor([0.0, 3]), atol=1e-4)
    sampson = geometry.sampson_distance(fundamental, pixels1, pixels2)
    assert torch.allclose(sampson, torch.tensor([0.0, 3 / 2**0.5]), atol=1e-4)


def test_sampson_is_the_distance_to_the_nearest_exact_match(generator):
    """To first order, so for a small shift: found by gradient steps onto the constraint."""
    fundamental, pixels1, pixels2 = two_views(generator)
    seen = pixels1.isfinite().all(dim=-1)[0]
    f, x1, x2 = fundamental[:1], pixels1[:1, seen], pixels2[:1, seen]
    x1 = x1 + 1e-4 * torch.randn(x1.shape, dtype=x1.dtype, generator=generator)
    both = torch.cat([x1, x2], dim=-1)
    nearest = both.clone()
    for _ in range(3):
        nearest.requires_grad_()
        one = torch.ones_like(nearest[..., :1])
        h1, h2 = torch.cat([nearest[..., :2], one], -1), torch.cat([nearest[..., 2:], one], -1)
        value = torch.einsum("bni,bij,bnj->bn", h1, f, h2)
        (slope,) = torch.autograd.grad(value.sum(), nearest)
        step = value[..., None] * slope / slope.square().sum(dim=-1, keepdim=True)
        nearest = (nearest - step).detach()
    exact = (nearest - both).norm(dim=-1)
    assert torch.allclose(geometry.sampson_distance(f, x1, x2), exact, rtol=1e-2)
