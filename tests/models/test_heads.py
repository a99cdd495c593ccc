import math

import pytest
import torch

from prob3r.models.heads import DPTHead, LinearHead, decode_points, dpt_states


def test_points_are_directions_times_expm1_of_their_norm() -> None:
    raw = torch.tensor([[0.0, 3.0, -4.0, 0.0], [math.log(2), 0.0, 0.0, math.log(3)]])
    points, confidence = decode_points(raw)
    far = math.expm1(5)
    torch.testing.assert_close(points, torch.tensor([[0, 0.6 * far, -0.8 * far], [1, 0, 0]]))
    torch.testing.assert_close(confidence, torch.tensor([2.0, 4.0]))


def test_the_origin_decodes_to_itself_with_a_finite_gradient() -> None:
    raw = torch.zeros(1, 4, requires_grad=True)
    points, _ = decode_points(raw)
    points.sum().backward()
    assert torch.equal(points, torch.zeros(1, 3))
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_the_linear_head_gives_each_patch_its_own_pixels() -> None:
    head, (rows, columns) = LinearHead(width=5, patch=2), (2, 3)
    tokens = torch.randn(1, rows * columns, 5)
    out = head([torch.zeros_like(tokens), tokens], (rows, columns))
    raw = head.proj(tokens)[0]
    for y in range(2 * rows):
        for x in range(2 * columns):
            patch = raw[(y // 2) * columns + x // 2].view(4, 2, 2)
            assert torch.equal(out[0, y, x], patch[:, y % 2, x % 2])


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (4, 2)])
def test_dpt_covers_every_pixel_of_grids_of_any_parity(grid: tuple[int, int]) -> None:
    head = DPTHead((8, 4, 4, 4), features=8)
    n = grid[0] * grid[1]
    states = [torch.randn(1, n, 8), *(torch.randn(1, n, 4) for _ in range(3))]
    assert head(states, grid).shape == (1, 16 * grid[0], 16 * grid[1], 4)


def test_dpt_reads_states_0_6_9_and_12() -> None:
    assert dpt_states(12) == (0, 6, 9, 12)
    head = DPTHead((8, 4, 4, 4), features=8)
    states = [torch.randn(1, 4, 8), *(torch.randn(1, 4, 4) for _ in range(3))]
    plain = head(states, (2, 2))
    for i in range(4):
        changed = [state + (j == i) for j, state in enumerate(states)]
        assert not torch.equal(head(changed, (2, 2)), plain)
