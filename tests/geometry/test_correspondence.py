import math

import pytest
import torch

from prob3r import geometry

GRID = (3, 4)  # 12 patches


def test_pck_and_end_point_error_by_hand():
    match = torch.tensor([[0, 5, 5, 11]])
    visible = torch.tensor([[True, True, True, False]])
    argmax = torch.tensor([[0, 10, 7, 0]])  # right, one off diagonally, two columns off
    assert geometry.pck(argmax, match, visible, GRID).item() == pytest.approx(2 / 3)
    assert geometry.pck(argmax, match, visible, GRID, radius=0).item() == pytest.approx(1 / 3)
    error = geometry.end_point_error(argmax, match, visible, GRID)
    assert error.item() == pytest.approx((0 + math.sqrt(2) + 2) / 3)


def test_the_end_of_a_row_is_not_near_the_start_of_the_next():
    pck = geometry.pck(torch.tensor([[3]]), torch.tensor([[4]]), torch.tensor([[True]]), GRID)
    assert pck.item() == 0


def test_without_a_visible_patch_nothing_is_measured():
    argmax, visible = torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)
    assert geometry.pck(argmax, argmax[:, 0], visible, GRID).isnan().all()
    assert geometry.end_point_error(argmax, argmax[:, 0], visible, GRID).isnan().all()


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_blocks_and_heads_are_measured_one_by_one(leading, generator):
    argmax = torch.randint(12, (2, *leading, 7), generator=generator)
    match = torch.randint(12, (2, 7), generator=generator)
    visible = torch.rand(2, 7, generator=generator) > 0.3
    for metric in (geometry.pck, geometry.end_point_error):
        together = metric(argmax, match, visible, GRID)
        assert together.shape == (2, *leading)
        heads = argmax.reshape(2, -1, 7)
        for b in range(2):
            for k in range(heads.shape[1]):
                alone = metric(heads[b : b + 1, k], match[b : b + 1], visible[b : b + 1], GRID)
                assert together.reshape(2, -1)[b, k] == alone


def test_cycle_consistency_against_a_loop(generator):
    to_view1 = torch.randint(6, (2, 3, 12), generator=generator)
    to_view2 = torch.randint(12, (2, 3, 6), generator=generator)
    visible = torch.rand(2, 12, generator=generator) > 0.4
    found = geometry.cycle_consistency(to_view1, to_view2, GRID, visible)
    for b in range(2):
        for k in range(3):
            near = []
            for n in visible[b].nonzero().flatten().tolist():
                back = int(to_view2[b, k, to_view1[b, k, n]])
                near.append(abs(back // 4 - n // 4) <= 1 and abs(back % 4 - n % 4) <= 1)
            assert found[b, k].item() == pytest.approx(sum(near) / len(near))


def test_a_permutation_and_its_inverse_are_consistent(generator):
    there = torch.randperm(12, generator=generator)[None]
    assert geometry.cycle_consistency(there, there.argsort(), GRID, radius=0).item() == 1


def test_entropy_of_certain_and_uniform_attention():
    probs = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert geometry.entropy(probs).tolist() == pytest.approx([0, math.log(4)])
