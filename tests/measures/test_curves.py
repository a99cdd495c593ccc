import pytest
import torch

from prob3r.measures.curves import (
    block_ends,
    blocks_of,
    centre_of_fall,
    first_under,
    half_way,
    settled,
)

BLOCKS = torch.tensor([-1, 0, 1, 2])


def test_a_curve_is_settled_from_the_site_after_its_last_one_above_the_bar() -> None:
    curves = torch.tensor([[10.0, 5.0, 1.05, 1.0], [1.0, 1.0, 5.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert settled(curves).tolist() == [2, 3, 0]


def test_a_curve_that_ends_near_zero_settles_by_the_least_difference() -> None:
    curve = torch.tensor([50.0, 3.0, 1.5, 0.0])
    assert settled(curve).item() == 3
    assert settled(curve, 2.0).item() == 2
    assert settled(torch.tensor([torch.nan, 20.0, 1.0, 0.0]), 2.0).item() == 2


def test_half_way_is_half_of_the_fall() -> None:
    assert half_way(torch.tensor([10.0, 7.0, 5.0, 0.0])).item() == 2


def test_the_centre_of_the_fall_weighs_blocks_by_their_shares() -> None:
    # A fall of 8: 2 in block 0, 4 in block 1, 2 in block 2.
    assert centre_of_fall(torch.tensor([10.0, 8.0, 4.0, 2.0]), BLOCKS).item() == 1
    # A fall of 8: 9 in block 0, a rise of 1 in block 1, nothing in block 2.
    assert centre_of_fall(torch.tensor([10.0, 1.0, 2.0, 2.0]), BLOCKS).item() == -1 / 8
    assert centre_of_fall(torch.tensor([1.0, 0.0, 0.0, 1.0]), BLOCKS).isnan()


def test_the_first_block_under_a_tolerance_is_one_past_the_last_where_there_is_none() -> None:
    curves = torch.tensor([[30.0, 14.0, 16.0, 9.0], [30.0, 20.0, 16.0, 15.0], [1.0, 1.0, 1.0, 1.0]])
    assert first_under(curves, BLOCKS, 15.0).tolist() == [0, 3, -1]


def test_the_input_of_a_stack_is_before_its_first_block() -> None:
    sites = ["dec2.embed", "dec2.0.self_attn", "dec2.0.mlp", "dec2.1.self_attn"]
    assert blocks_of(sites).tolist() == pytest.approx([-1, 0, 0, 1])


def test_a_block_ends_where_the_next_one_begins() -> None:
    sites = ["dec2.embed", "dec2.0.self_attn", "dec2.0.mlp", "dec2.1.global_attn", "dec2.3.mlp"]
    assert block_ends(sites) == [2, 3, 4]
    assert block_ends(["dec2.embed"]) == []
