import math

import pytest
import torch

from prob3r.geometry import norm_factor
from prob3r.models import Prediction
from prob3r.scenes import Pair
from prob3r.training.objectives import confident_error
from prob3r.training.pairs import local_loss, pointmap_loss


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
    ones = torch.ones_like(rooms.points[0][..., 0])
    output = Prediction(rooms.points, (ones, ones))
    right = (rooms.view1.points, rooms.view2.points)
    loss = local_loss(output._replace(local_points=right), rooms)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    # The points of view 2 seen by a camera that is moved, but not turned.
    unturned = rooms.points[1] - rooms.view2_to_view1[:, None, None, :3, 3]
    loss = local_loss(output._replace(local_points=(rooms.view1.points, unturned)), rooms)
    # By hand: how far the local points are off, in the pair's unit, mean over valid pixels.
    unit = norm_factor(rooms.points, rooms.valid)
    off = (unturned - rooms.view2.points).norm(dim=-1) / unit[:, None, None]
    assert loss.item() == pytest.approx(off[rooms.valid[1]].mean().item(), rel=1e-4)
    assert loss.item() > 0.1
