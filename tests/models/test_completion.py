"""Tests of cross-view completion."""

import pytest
import torch
from torch import Tensor

from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.models.completion import CrossViewCompletion


@pytest.fixture
def model() -> DUSt3R:
    return random(DUSt3RConfig((16, 16), 8, 16, 1, 2, 24, 2, 2), seed=1)


@pytest.fixture
def completion(model: DUSt3R) -> CrossViewCompletion:
    return CrossViewCompletion(model, visible=0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: int = 32, count: int = 2) -> tuple[Tensor, Tensor]:
    one, two = (2 * torch.rand(2, count, 3, size, size, generator=generator()) - 1).unbind()
    return one, two


def hidden(pair: tuple[Tensor, Tensor], visible: int, seed: int) -> list[list[int]]:
    """The patches of view 1 that completion hides, by the order that its generator draws."""
    n = pair[0][0, 0].numel() // 64
    order = torch.rand(len(pair[0]), n, generator=generator(seed)).argsort(1)
    return order[:, visible:].tolist()


def test_completion_trains_what_it_uses_and_nothing_else(completion: CrossViewCompletion) -> None:
    completion(*images(), generator()).backward()
    for name, parameter in completion.named_parameters():
        unused = "dec_blocks2" in name or "downstream_head" in name
        # A constant added to all keys changes no attention.
        flat = "projk.bias" in name
        if unused:
            assert parameter.grad is None, name
        elif not flat:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-7, name


def test_only_hidden_patches_are_predicted(completion: CrossViewCompletion) -> None:
    """Half of the patches are hidden; changing one is seen in the loss just through its target."""
    pair = images()
    outputs: list[Tensor] = []
    completion.prediction_head.register_forward_hook(lambda *args: outputs.append(args[2]))
    before = completion(*pair, generator())
    left_out = hidden(pair, 8, 0)
    changed = pair[0].clone()
    for row, patches in enumerate(left_out):
        for patch in patches:
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            changed[row, :, top : top + 8, left : left + 8] = torch.rand(3, 8, 8)
    after = completion(changed, pair[1], generator())
    torch.testing.assert_close(outputs[0], outputs[1])  # hidden pixels are not seen
    assert abs(before - after) > 1e-3  # but they are what is asked for

    errors = []
    for row, patches in enumerate(left_out):
        for patch in patches:
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            target = pair[0][row, :, top : top + 8, left : left + 8].flatten()
            target = (target - target.mean()) / (target.var(correction=0) + 1e-5).sqrt()
            errors.append((outputs[0][row, patch] - target).square().mean())
    torch.testing.assert_close(torch.stack(errors).mean(), before)


def test_visible_patches_do_not_count_in_the_loss(completion: CrossViewCompletion) -> None:
    """The gradient at the prediction is zero just where the patch was shown."""
    pair, outputs = images(), list[Tensor]()
    completion.prediction_head.register_forward_hook(lambda *args: outputs.append(args[2]))
    loss = completion(*pair, generator(5))
    (gradient,) = torch.autograd.grad(loss, outputs)
    counted = [row.nonzero().flatten().tolist() for row in gradient.abs().sum(-1)]
    assert counted == [sorted(row) for row in hidden(pair, 8, 5)]


def test_completion_looks_at_view_2(completion: CrossViewCompletion) -> None:
    pair = images()
    other = pair[1].flip(0)
    assert abs(completion(*pair, generator()) - completion(pair[0], other, generator())) > 1e-5


def test_completion_is_a_function_of_its_generator(completion: CrossViewCompletion) -> None:
    pair = images()
    assert torch.equal(completion(*pair, generator()), completion(*pair, generator()))
    assert not torch.equal(completion(*pair, generator()), completion(*pair, generator(1)))


def test_at_least_one_patch_is_shown(model: DUSt3R) -> None:
    assert CrossViewCompletion(model, visible=0.01)(*images(16), generator()).isfinite()
