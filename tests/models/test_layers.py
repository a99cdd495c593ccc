import cmath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.models.layers import CrossAttention, RoPE2D, SelfAttention, patch_positions
from prob3r.models.sites import Tap

cells = st.tuples(st.integers(0, 40), st.integers(0, 40))


def turned_slowly(x: torch.Tensor, positions: torch.Tensor, base: float) -> torch.Tensor:
    """RoPE in 2D, one complex number at a time."""
    out = x.clone()
    planes = x.shape[-1] // 4
    for n, (row, column) in enumerate(positions.tolist()):
        for start, position in ((0, row), (2 * planes, column)):
            for j in range(planes):
                turn = cmath.exp(1j * position * base ** (-j / planes))
                for b, k in torch.cartesian_prod(*map(torch.arange, x.shape[:2])).tolist():
                    z = complex(x[b, k, n, start + j], x[b, k, n, start + planes + j]) * turn
                    out[b, k, n, start + j] = z.real
                    out[b, k, n, start + planes + j] = z.imag
    return out


def test_patches_are_numbered_row_by_row() -> None:
    positions = patch_positions(2, 3, torch.device("cpu"))
    assert positions.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("base", [100.0, 10.0])
def test_rope_turns_planes_of_channels_by_the_position(base: float) -> None:
    positions = patch_positions(2, 3, torch.device("cpu"))
    x = torch.randn(2, 2, 6, 16)
    torch.testing.assert_close(
        RoPE2D(positions, 16, base)(x), turned_slowly(x, positions, base), atol=1e-5, rtol=0
    )


def test_rope_takes_positions_of_its_own_for_every_batch_item() -> None:
    grid = patch_positions(2, 3, torch.device("cpu"))
    positions = torch.stack((grid, grid.flip(0)))
    x = torch.randn(2, 2, 6, 16)
    for b in range(2):
        alone = RoPE2D(positions[b], 16)(x[b : b + 1])
        assert torch.equal(RoPE2D(positions, 16)(x)[b : b + 1], alone)


@given(cells, cells, cells)
def test_attention_after_rope_depends_on_relative_positions_only(
    query: tuple[int, int], key: tuple[int, int], shift: tuple[int, int]
) -> None:
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)

    def logit(at_q: torch.Tensor, at_k: torch.Tensor) -> torch.Tensor:
        turned_q, turned_k = (RoPE2D(at[None], 16)(x) for at, x in ((at_q, q), (at_k, k)))
        return (turned_q * turned_k).sum()

    at_q, at_k, by = map(torch.tensor, (query, key, shift))
    torch.testing.assert_close(logit(at_q + by, at_k + by), logit(at_q, at_k), atol=1e-3, rtol=0)


def test_self_attention_splits_queries_keys_and_values_in_this_order() -> None:
    attention = SelfAttention(16, heads=2)
    x, rope = torch.randn(1, 6, 16), RoPE2D(patch_positions(2, 3, torch.device("cpu")), 8)
    q, k, v = (part.view(1, 6, 2, 8).transpose(1, 2) for part in attention.qkv(x).split(16, dim=-1))
    heads = (rope(q) @ rope(k).mT / 8**0.5).softmax(-1) @ v
    expected = attention.proj(torch.cat((heads[:, 0], heads[:, 1]), -1))
    plain = attention(x, rope, lambda q, k, v: Tap().attend("", q, k, v))
    torch.testing.assert_close(plain, expected)


def test_cross_attention_reads_keys_and_values_of_the_other_stream() -> None:
    attention = CrossAttention(16, heads=1)
    x, other = torch.randn(1, 6, 16), torch.randn(1, 4, 16)
    rope = RoPE2D(patch_positions(2, 3, torch.device("cpu")), 16)
    rope_other = RoPE2D(patch_positions(2, 2, torch.device("cpu")), 16)
    seen = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.update(q=q[:, 0], k=k[:, 0], v=v[:, 0])
        return Tap().attend("", q, k, v)

    out = attention(x, other, rope, rope_other, attend)
    torch.testing.assert_close(seen["q"], rope(attention.projq(x)[:, None])[:, 0])
    torch.testing.assert_close(seen["k"], rope_other(attention.projk(other)[:, None])[:, 0])
    assert torch.equal(seen["v"], attention.projv(other))
    assert out.shape == x.shape
