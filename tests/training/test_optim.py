import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prob3r.models import DUSt3R
from prob3r.models.completion import CrossViewCompletion
from prob3r.training.optim import Muon, optimizers, orthogonalise
from prob3r.training.recipe import Recipe, Stage
from tests.training.conftest import CONFIG


@given(
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(-4, 4),
    st.integers(0, 2**31),
)
def test_orthogonalised_matrices_keep_their_singular_vectors(
    count: int, rows: int, columns: int, magnitude: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    draws = [torch.randn(count, side, rank, generator=generator) for side in (rows, columns)]
    left, right = (torch.linalg.qr(draw).Q for draw in draws)
    values = 1 + torch.rand(count, 1, rank, generator=generator)  # so that they can be told apart
    result = orthogonalise(10**magnitude * (left * values) @ right.mT)
    assert result.shape == (count, rows, columns)
    inner = left.mT @ result @ right  # diagonal just if the singular vectors are the same
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert (diagonal > 0.6).all()
    assert (diagonal < 1.3).all()
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-3, rtol=0)
    torch.testing.assert_close(left @ inner @ right.mT, result, atol=1e-3, rtol=0)


def test_a_matrix_of_zeros_stays_finite() -> None:
    assert orthogonalise(torch.zeros(2, 3, 4)).eq(0).all()


def test_orthogonalisation_tolerates_bfloat16() -> None:
    matrices = torch.randn(2, 8, 6)
    result = orthogonalise(matrices, dtype=torch.bfloat16)
    assert result.dtype == torch.float32
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_muon_steps_by_hand() -> None:
    """Nesterov momentum, decoupled decay, and the update scaled as an AdamW step is."""
    weight, first, second = torch.randn(3, 4, 6).unbind()
    parameter = nn.Parameter(weight.clone())
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    momentum, expected = torch.zeros(4, 6), weight.clone()
    for gradient in (first, second):
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        update = 0.1 * gradient + 0.9 * momentum
        expected = expected * (1 - 0.1 * 0.5)
        expected = expected - 0.1 * 0.2 * 6**0.5 * orthogonalise(update[None])[0]
        torch.testing.assert_close(parameter.detach(), expected)


def test_muon_takes_fused_projections_as_three_matrices() -> None:
    fused = nn.Parameter(torch.randn(12, 4))
    apart = [nn.Parameter(part.clone()) for part in fused.detach().chunk(3)]
    other = nn.Parameter(torch.randn(4, 4))
    optimizer, separate = Muon([fused, other], lr=0.1), Muon(apart, lr=0.1)
    for _ in range(3):
        fused.grad, other.grad = torch.randn(12, 4), torch.randn(4, 4)
        for part, gradient in zip(apart, fused.grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        optimizer.step()
        separate.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in apart]))


def test_muon_leaves_what_has_no_gradient() -> None:
    still = nn.Parameter(torch.ones(2, 2))
    Muon([still], lr=0.1, weight_decay=0.5).step()
    assert still.detach().eq(1).all()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_vectors_do_not_decay(kind: str) -> None:
    stage = Stage("pointmaps", 16, 8, 8, 1e-3)
    recipe = Recipe("small", 0, CONFIG, (stage,), weight_decay=0.3, optimizer=kind)  # type: ignore[arg-type]
    module = CrossViewCompletion(DUSt3R(CONFIG))
    made = optimizers(module, recipe)
    assert [type(o).__name__ for o in made] == (["Muon"] if kind == "muon" else []) + ["AdamW"]
    decays = {
        id(p): group["weight_decay"]
        for o in made
        for group in o.param_groups
        for p in group["params"]
    }
    held = [id(p) for o in made for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters())
    for parameter in module.parameters():
        assert decays[id(parameter)] == (0.3 if parameter.ndim >= 2 else 0.0)
    if kind == "muon":
        orthogonal = {id(p) for p in made[0].param_groups[0]["params"]}
        names = {n for n, p in module.named_parameters() if id(p) in orthogonal}
        assert "backbone.dec_blocks2.1.attn.qkv.weight" in names
        assert all("_blocks" in name and name.endswith("weight") for name in names)
        assert not any("norm" in name for name in names)
