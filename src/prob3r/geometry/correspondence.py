"""Attention as matching: whether the most attended patch is the true match.

Patches are counted row by row. `*k` stands for any number of axes after the batch axis, such as
blocks and heads; the metrics have one value for each of their entries.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def pck(
    argmax: Int[Tensor, "b *k n"],
    match: Int[Tensor, "b n"],
    visible: Bool[Tensor, "b n"],
    grid: tuple[int, int],
    radius: int = 1,
) -> Float[Tensor, " b *k"]:
    """Share of the co-visible patches whose most attended patch is near their true match.

    Near means at most `radius` rows and `radius` columns away. PCK@1 therefore accepts the 3x3
    patches around the match. The result is NaN for a pair without a co-visible patch.

    Args:
        argmax: The view-1 patch that each view-2 patch attends to most.
        match: The view-1 patch that holds the true match of each view-2 patch.
        visible: Whether the view-2 patch has a true match.
        grid: Rows and columns of view 1's patches.
        radius: In patches.
    """
    offset = _offset(argmax, _over_heads(match, argmax), grid)
    return _mean(offset.abs().amax(dim=-1) <= radius, _over_heads(visible, argmax))


def end_point_error(
    argmax: Int[Tensor, "b *k n"],
    match: Int[Tensor, "b n"],
    visible: Bool[Tensor, "b n"],
    grid: tuple[int, int],
) -> Float[Tensor, " b *k"]:
    """Mean distance, in patches, from the most attended patch to the true match.

    The distance is Euclidean, between patch centres. The arguments are those of `pck`; the result
    is NaN for a pair without a co-visible patch.
    """
    offset = _offset(argmax, _over_heads(match, argmax), grid)
    return _mean(offset.square().sum(dim=-1).sqrt(), _over_heads(visible, argmax))


def cycle_consistency(
    to_view1: Int[Tensor, "b *k n2"],
    to_view2: Int[Tensor, "b *k n1"],
    grid2: tuple[int, int],
    visible: Bool[Tensor, "b n2"] | None = None,
    radius: int = 1,
) -> Float[Tensor, " b *k"]:
    """Share of view 2's patches that return near their start after going to view 1 and back.

    Each step goes to the most attended patch. The result is NaN if no patch is counted.

    Args:
        to_view1: The view-1 patch that each view-2 patch attends to most.
        to_view2: The view-2 patch that each view-1 patch attends to most.
        grid2: Rows and columns of view 2's patches.
        visible: View-2 patches to count; all by default.
        radius: As in `pck`.
    """
    back = to_view2.gather(-1, to_view1.long())
    start = torch.arange(to_view1.shape[-1], device=back.device).expand_as(back)
    near = _offset(back, start, grid2).abs().amax(dim=-1) <= radius
    counted = torch.ones_like(near) if visible is None else _over_heads(visible, near)
    return _mean(near, counted)


def entropy(probs: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Entropy over the last axis, in nats: 0 if one key has all weight, log n if all are equal."""
    total: Tensor = torch.special.entr(probs).sum(dim=-1)
    return total


def _over_heads(
    values: Shaped[Tensor, "b n"], like: Shaped[Tensor, "b *k n"]
) -> Shaped[Tensor, "b *k n"]:
    """Values of the patches of each pair, repeated over the axes between pair and patch."""
    between = [1] * (like.ndim - 2)
    return values.reshape(values.shape[0], *between, values.shape[-1]).expand(like.shape)


def _offset(
    index: Int[Tensor, "*b n"], other: Int[Tensor, "*b n"], grid: tuple[int, int]
) -> Float[Tensor, "*b n 2"]:
    """Offset in rows and columns between two patches, as `index` minus `other`."""
    columns = grid[1]
    rows = index // columns - other // columns
    return torch.stack([rows, index % columns - other % columns], dim=-1).float()


def _mean(values: Shaped[Tensor, "*b n"], counted: Bool[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Mean over the last axis of the values that count; NaN if none counts."""
    return (values * counted).sum(dim=-1) / counted.sum(dim=-1)
