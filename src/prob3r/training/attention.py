"""Attention for training in bfloat16 on a CPU."""

from jaxtyping import Float
from torch import Tensor

from prob3r.models.sites import Tap


class DirectAttention(Tap):
    """Attention written out, with all its weights in memory.

    PyTorch's fused attention takes five times as long in bfloat16 on a CPU, most of it backward,
    for the few tokens of a small model.
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
        scores = queries @ keys.mT * queries.shape[-1] ** -0.5
        return scores.softmax(dim=-1).to(values.dtype) @ values
