import math

import pytest
import torch
from torch import Tensor

from prob3r.geometry import norm_factor
from prob3r.models import DUSt3R, Prediction
from prob3r.scenes import Pair, View
from prob3r.training.objectives import confident_error
from prob3r.training.pairs import (
    CrossViewCompletion,
    pointmap_loss,
    posed_loss,
)


@pytest.fixture
def completion(model: DUSt3R) -> CrossViewCompletion:
    return CrossViewCompletion(model, visible=0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: int = 32, count: int = 2) -> Pair:
    one, two = (2 * torch.rand(2, count, 3, size, size, generator=generator()) - 1).unbind()
    return Pair(View(one), View(two))


def hidden(pair: Pair, visible: int, seed: int) -> list[list[int]]:
    """The patches of view 1 that completion hides, by the order that its generator draws."""
    n = pair.view1.image[0, 0].numel() // 64
    order = torch.rand(len(pair), n, generator=generator(seed)).argsort(1)
    return order[:, visible:].tolist()


def test_completion_trains_what_it_uses_and_nothing_else(completion: CrossViewCompletion) -> None:
    completion(images(), generator()).backward()
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
    before = completion(pair, generator())
    left_out = hidden(pair, 8, 0)
    changed = pair.view1.image.clone()
    for row, patches in enumerate(left_out):
        for patch in patches:
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            changed[row, :, top : top + 8, left : left + 8] = torch.rand(3, 8, 8)
    after = completion(pair.with_views(view1=View(changed)), generator())
    torch.testing.assert_close(outputs[0], outputs[1])  # hidden pixels are not seen
    assert abs(before - after) > 1e-3  # but they are what is asked for

    errors = []
    for row, patches in enumerate(left_out):
        for patch in patches:
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            target = pair.view1.image[row, :, top : top + 8, left : left + 8].flatten()
            target = (target - target.mean()) / (target.var(correction=0) + 1e-5).sqrt()
            errors.append((outputs[0][row, patch] - target).square().mean())
    torch.testing.assert_close(torch.stack(errors).mean(), before)


def test_visible_patches_do_not_count_in_the_loss(completion: CrossViewCompletion) -> None:
    """The gradient at the prediction is zero just where the patch was shown."""
    pair, outputs = images(), list[Tensor]()
    completion.prediction_head.register_forward_hook(lambda *args: outputs.append(args[2]))
    loss = completion(pair, generator(5))
    (gradient,) = torch.autograd.grad(loss, outputs)
    counted = [row.nonzero().flatten().tolist() for row in gradient.abs().sum(-1)]
    assert counted == [sorted(row) for row in hidden(pair, 8, 5)]


def test_completion_looks_at_view_2(completion: CrossViewCompletion) -> None:
    pair = images()
    other = pair.with_views(view2=View(pair.view2.image.flip(0)))
    assert abs(completion(pair, generator()) - completion(other, generator())) > 1e-5


def test_completion_is_a_function_of_its_generator(completion: CrossViewCompletion) -> None:
    pair = images()
    assert torch.equal(completion(pair, generator()), completion(pair, generator()))
    assert not torch.equal(completion(pair, generator()), completion(pair, generator(1)))


def test_at_least_one_patch_is_shown(model: DUSt3R) -> None:
    assert CrossViewCompletion(model, visible=0.01)(images(16), generator()).isfinite()


def test_the_confident_error_by_hand() -> None:
    predicted, true = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    predicted[0, 0, 0] = torch.tensor([3.0, 4.0, 0.0])
    predicted[0, 0, 2] = 1e6
    confidence = torch.tensor([[[2.0, 3.0, 4.0]]])
    valid = torch.tensor([[[True, True, False]]])
    by_hand = ((2 * 5 - 0.2 * math.log(2)) + (0 - 0.2 * math.log(3))) / 2
    error = confident_error(predicted, confidence, true, valid, 0.2)
    assert error.item() == pytest.approx(by_hand)
    nothing = confident_error(predicted, confidence, true, torch.zeros_like(valid), 0.2)
    assert nothing.item() == 0


def test_the_pointmap_loss_is_that_of_a_slow_reference(rooms: Pair) -> None:
    points = tuple(torch.randn(6, 16, 16, 3) for _ in range(2))
    confidence = tuple(1 + torch.rand(6, 16, 16) for _ in range(2))
    loss = pointmap_loss(Prediction(points, confidence), rooms)  # type: ignore[arg-type]
    true, valid = rooms.points, rooms.valid
    unit, true_unit = [], []
    for b in range(6):
        unit.append(torch.cat([points[v][b][valid[v][b]] for v in (0, 1)]).norm(dim=-1).mean())
        true_unit.append(torch.cat([true[v][b][valid[v][b]] for v in (0, 1)]).norm(dim=-1).mean())
    total = 0.0
    for v in (0, 1):
        terms = []
        for b, y, x in valid[v].nonzero().tolist():
            error = (points[v][b, y, x] / unit[b] - true[v][b, y, x] / true_unit[b]).norm()
            c = confidence[v][b, y, x]
            terms.append(c * error - 0.2 * c.log())
        total += torch.stack(terms).mean().item()
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_the_pointmap_loss_does_not_see_the_scale(rooms: Pair) -> None:
    points = tuple(torch.randn(6, 16, 16, 3) for _ in range(2))
    confidence = tuple(1 + torch.rand(6, 16, 16) for _ in range(2))
    loss = pointmap_loss(Prediction(points, confidence), rooms)  # type: ignore[arg-type]
    larger = pointmap_loss(Prediction(tuple(7 * p for p in points), confidence), rooms)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, larger)


def test_the_true_pointmaps_are_the_best(rooms: Pair) -> None:
    sure = torch.full((6, 16, 16), 1.0 + 1e-6)
    loss = pointmap_loss(Prediction(rooms.points, (sure, sure)), rooms)
    assert abs(loss.item()) < 1e-4


def test_a_posed_model_answers_for_its_local_pointmap_too(rooms: Pair) -> None:
    """With the truth the loss is zero; a wrong pose is seen though view 2's points are right."""
    truth = rooms.view2_to_view1
    pose = truth[:, :3, :3], truth[:, :3, 3]
    ones = torch.ones_like(rooms.points[0][..., 0])
    output = Prediction(rooms.points, (ones, ones))
    assert posed_loss(output, pose, rooms).item() == pytest.approx(0, abs=1e-5)
    turned = rooms.view2_to_view1.clone()
    turned[:, :3, :3] = torch.eye(3)
    assert pointmap_loss(output, rooms).item() == pytest.approx(0, abs=1e-5)
    loss = posed_loss(output, (turned[:, :3, :3], pose[1]), rooms)
    # By hand: how far the local points are off, in the pair's unit, mean over valid pixels.
    local = torch.einsum(
        "bji,bhwj->bhwi", turned[:, :3, :3], rooms.points[1] - pose[1][:, None, None]
    )
    unit = norm_factor(rooms.points, rooms.valid)
    off = (local - rooms.view2.points).norm(dim=-1) / unit[:, None, None]
    assert loss.item() == pytest.approx(off[rooms.valid[1]].mean().item(), rel=1e-4)
    assert loss.item() > 0.1
