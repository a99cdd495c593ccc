"""Attention for training: fast in bfloat16 on a CPU, and with a penalty on a patch's own view."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.models.sites import Tap
from prob3r.models.stacks import TokenLayout


class DirectAttention(Tap):
    """Attention without a fused kernel, with all its weights in memory.

    For the few tokens of a small model in bfloat16 on a CPU, PyTorch's fused attention takes five
    times as long, mostly in the backward pass.
    """

    attends_apart = False

    def attend(
        self,
        site: str,
        queries: Float[Tensor, "b k n e"],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> Float[Tensor, "b k n e"]:
        """Return the output of every head at this attention site, queries and keys after RoPE."""
        return _weighted(_scores(queries, keys), values)


class OthersFirst(DirectAttention):
    """Direct attention in which patches see less of their own view when all views attend jointly.

    In joint attention a patch attends to itself most, because no patch of another view is as
    similar to it. Cross-attention that was copied into joint attention then brings little from
    other views, and training destroys it before the model learns to tell views apart. A penalty
    that falls to 0 during training prevents this.

    Args:
        layout: Where special tokens are. Scores from them and to them have no penalty.

    Attributes:
        penalty: Subtracted from the attention score of each pair of patches of one view.
    """

    penalty: float = 0.0

    def __init__(self, layout: TokenLayout):
        self.layout = layout

    def attend_views(
        self,
        sites: Sequence[str],
        queries: Sequence[Float[Tensor, "b k n e"]],
        keys: Float[Tensor, "b k m e"],
        values: Float[Tensor, "b k m e"],
    ) -> list[Float[Tensor, "b k n e"]]:
        """Return the outputs of the attention of all views, with the penalty on the scores."""
        views, tokens = len(queries), queries[0].shape[2]
        scores = _scores(torch.cat(list(queries), 2), keys)
        scores = scores - self.penalty * _own_patches(self.layout, views, tokens).to(scores)
        return list(_weighted(scores, values).split(tokens, 2))


@lru_cache
def _own_patches(layout: TokenLayout, views: int, tokens: int) -> Float[Tensor, "n n"]:
    """Return 1 where a patch attends to a patch of its own view, and 0 elsewhere."""
    patches = layout.patches(tokens)
    own = torch.zeros(tokens, tokens)
    own[patches, patches] = 1
    return torch.block_diag(*[own] * views)


def _scores(queries: Tensor, keys: Tensor) -> Float[Tensor, "b k n m"]:
    return queries @ keys.mT * queries.shape[-1] ** -0.5


def _weighted(scores: Tensor, values: Tensor) -> Float[Tensor, "b k n e"]:
    return scores.softmax(dim=-1).to(values.dtype) @ values
