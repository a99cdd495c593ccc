import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prob3r import geometry
from prob3r.geometry import Similarity
from tests.geometry.conftest import random_poses

FITS = [geometry.align, geometry.align_robust]


def random_similarity(
    b: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Similarity:
    pose = random_poses(b, generator, dtype)
    scale = torch.rand(b, dtype=dtype, generator=generator) * 2 + 0.3
    return Similarity(scale, pose[:, :3, :3], pose[:, :3, 3])


def assert_similar(one: Similarity, other: Similarity, tolerance: float = 1e-4) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, atol=tolerance), (a, b)


def points(b: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(b, n, 3, generator=generator) * torch.tensor([1.0, 0.7, 0.5]) + 2


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(4, 60))
def test_a_known_similarity_is_recovered(fit, seed, n):
    generator = torch.Generator().manual_seed(seed)
    true = random_similarity(3, generator)
    source = points(3, n, generator)
    assert_similar(fit(source, true.apply(source)), true)


@pytest.mark.parametrize("fit", FITS)
def test_a_rigid_fit_keeps_the_scale_at_one(fit, generator):
    true = random_similarity(3, generator)._replace(scale=torch.ones(3))
    source = points(3, 30, generator)
    assert_similar(fit(source, true.apply(source), scale=False), true)
    assert fit(source, 2 * source, scale=False).scale.tolist() == [1, 1, 1]


def test_similarity_inverse_and_matrix_agree_with_apply(generator):
    similarity = random_similarity(2, generator)
    source = torch.randn(2, 4, 5, 3, generator=generator)
    moved = similarity.apply(source)
    assert torch.allclose(similarity.inverse().apply(moved), source, atol=1e-4)
    assert torch.allclose(geometry.transform(source, similarity.matrix()), moved, atol=1e-5)


def test_no_nearby_similarity_fits_better(generator):
    source, target = points(1, 40, generator), points(1, 40, generator)
    weights = torch.rand(1, 40, generator=generator)

    def cost(similarity: Similarity) -> Tensor:
        return (weights * (similarity.apply(source) - target).square().sum(dim=-1)).sum()

    best = geometry.align(source, target, weights)
    for _ in range(20):
        turn = torch.linalg.matrix_exp(skew(0.02 * torch.randn(3, generator=generator)))
        near = Similarity(
            best.scale * (1 + 0.02 * torch.randn(1, generator=generator)),
            turn @ best.rotation,
            best.translation + 0.02 * torch.randn(1, 3, generator=generator),
        )
        assert cost(near) > cost(best)


def skew(v: Tensor) -> Tensor:
    return torch.linalg.cross(v.expand(3, 3), torch.eye(3))


def test_a_mirror_image_is_met_by_a_rotation(generator):
    source = points(2, 30, generator)
    fit = geometry.align(source, source * torch.tensor([-1.0, 1, 1]))
    assert torch.allclose(torch.linalg.det(fit.rotation), torch.ones(2), atol=1e-5)
    assert (fit.scale > 0).all()


def test_weights_count_as_repetitions(generator):
    source, target = points(1, 6, generator), points(1, 6, generator)
    weights = torch.tensor([[1.0, 2, 0, 3, 1, 1]])
    repeats = weights[0].long()
    repeated = geometry.align(
        source.repeat_interleave(repeats, dim=1), target.repeat_interleave(repeats, dim=1)
    )
    assert_similar(geometry.align(source, target, weights), repeated)
    assert_similar(geometry.align(source, target, 1e-3 * weights), repeated)


@pytest.mark.parametrize("outliers", [0.2, 0.4])
@pytest.mark.parametrize("kind", ["scattered", "one place", "another motion"])
def test_gross_outliers_do_not_move_the_robust_fit(kind, outliers, generator):
    b, n = 8, 400
    k = int(outliers * n)
    true = random_similarity(b, generator)
    source = points(b, n, generator)
    target = true.apply(source) + 1e-3 * torch.randn(b, n, 3, generator=generator)
    target[:, :k] = {
        "scattered": 5 * torch.randn(b, k, 3, generator=generator),
        "one place": 5 + 0.1 * torch.randn(b, k, 3, generator=generator),
        "another motion": random_similarity(b, generator).apply(source[:, :k]),
    }[kind]
    plain, robust = geometry.align(source, target), geometry.align_robust(source, target)
    assert_similar(robust, true, tolerance=5e-3)
    assert (geometry.rotation_error(plain.rotation, true.rotation) > 1).float().mean() > 0.5


def test_points_without_weight_may_be_anything(generator):
    true = random_similarity(2, generator)
    source = points(2, 20, generator)
    target = true.apply(source)
    weights = torch.ones(2, 20)
    weights[:, :9] = 0
    source[:, :9], target[:, :9] = torch.inf, torch.nan
    for fit in FITS:
        assert_similar(fit(source, target, weights), true)


@pytest.mark.parametrize("fit", FITS)
def test_degenerate_points_give_a_finite_proper_similarity(fit, generator):
    cloud = points(1, 20, generator)
    constant = torch.tensor([0.3, 0.7, 1.9]).expand(1, 20, 3)
    line = torch.randn(1, 20, 1, generator=generator) * torch.tensor([1.0, 2, 3]) + 1
    cases = {
        "no weight": (cloud, cloud + 1, torch.zeros(1, 20)),
        "constant target": (cloud, constant, None),
        "zero target": (cloud, 0 * constant, None),
        "constant source": (constant, cloud, None),
        "one point": (cloud[:, :1], cloud[:, 1:2], None),
        "collinear": (line, 2 * line, None),
        "tiny": (1e-9 * cloud, 1e-9 * cloud, None),
    }
    found = {}
    for name, (source, target, weights) in cases.items():
        source = source.clone().requires_grad_()
        found[name] = similarity = fit(source, target, weights)
        assert all(part.isfinite().all() for part in similarity), name
        assert torch.linalg.det(similarity.rotation).item() == pytest.approx(1, abs=1e-5), name
        assert similarity.scale > 0, name
        sum(part.sum() for part in similarity).backward()
        assert source.grad.isfinite().all(), name
    identity = torch.eye(3)[None]
    for name in ("no weight", "constant target", "constant source", "one point"):
        assert torch.equal(found[name].rotation, identity), name
    assert found["no weight"].translation.tolist() == [[0, 0, 0]]
    assert found["constant target"].scale < 1e-6
    assert found["constant source"].scale == 1
    assert torch.allclose(found["collinear"].apply(line), 2 * line, atol=1e-4)
    assert found["tiny"].scale.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("fit", FITS)
def test_a_batch_is_as_its_pairs_one_by_one(fit, generator):
    source, target = points(4, 50, generator), points(4, 50, generator)
    target = target * 0.3 + source
    weights = torch.rand(4, 50, generator=generator)
    together = fit(source, target, weights)
    for i in range(4):
        alone = fit(source[i : i + 1], target[i : i + 1], weights[i : i + 1])
        assert_similar(alone, Similarity(*(part[i : i + 1] for part in together)), 1e-5)


def test_gradients_of_the_plain_fit(generator):
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    source, weights = random(2, 6, 3), random(2, 6).abs() + 0.1
    target = source + 0.3 * random(2, 6, 3)
    inputs = [tensor.requires_grad_() for tensor in (source, target, weights)]
    assert torch.autograd.gradcheck(lambda *args: tuple(geometry.align(*args)), inputs)


def test_gradients_of_the_robust_fit_pass_through_inliers_only(generator):
    source = points(1, 40, generator)
    target = source + 0.01 * torch.randn(1, 40, 3, generator=generator)
    target[:, :8] += 50
    target.requires_grad_()
    geometry.align_robust(source, target).translation.sum().backward()
    size = target.grad.norm(dim=-1)[0]
    assert size[:8].max() < 1e-3 * size[8:].max()
