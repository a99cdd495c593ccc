"""Two-layer perceptrons, trained independently, for what a linear probe may fail to decode."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HIDDEN, STEPS, BATCH, RATE = 128, 400, 256, 2e-3
CHECK_EVERY = 20  # steps


def fit_mlps(
    features: Float[Tensor, "p b d"], targets: Float[Tensor, "b t"], fitted: int, seed: int
) -> list[Tensor]:
    """Return the weights of two-layer perceptrons, trained with Adam on the squared error.

    For each perceptron, the weights with the lowest held-out loss are returned.

    Args:
        features: The inputs of the `p` perceptrons: the training rows, then the held-out rows.
        targets: The targets of each row, shared by all perceptrons.
        fitted: Number of training rows.
        seed: Seed of the initial weights and of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    p, _, d = features.shape
    t = targets.shape[1]
    shapes = [(p, d, HIDDEN), (p, 1, HIDDEN), (p, HIDDEN, t), (p, 1, t)]
    # Drawn as torch.nn.Linear does, between -1 and 1 over the root of the number of inputs.
    weights = [
        ((2 * torch.rand(shape, generator=generator) - 1) / width**0.5).to(features.device)
        for shape, width in zip(shapes, (d, d, HIDDEN, HIDDEN), strict=True)
    ]
    kept, least = [w.clone() for w in weights], features.new_full((p,), torch.inf)
    optimizer = torch.optim.Adam([w.requires_grad_() for w in weights], lr=RATE)
    for step in range(1, STEPS + 1):
        rows = torch.randint(fitted, (BATCH,), generator=generator).to(features.device)
        with torch.enable_grad():
            losses = _squared_error(weights, features[:, rows], targets[rows])
            optimizer.zero_grad()
            losses.sum().backward()
        optimizer.step()
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                held = _squared_error(weights, features[:, fitted:], targets[fitted:])
                for keep, weight in zip(kept, weights, strict=True):
                    keep[held < least] = weight[held < least]
            least = least.minimum(held)
    return kept


def run_mlps(weights: Sequence[Tensor], features: Float[Tensor, "p b d"]) -> Float[Tensor, "p b t"]:
    """Return the output of each perceptron."""
    first, bias1, second, bias2 = weights
    return F.gelu(features @ first + bias1) @ second + bias2


def _squared_error(
    weights: Sequence[Tensor], features: Float[Tensor, "p b d"], targets: Float[Tensor, "b t"]
) -> Float[Tensor, " p"]:
    return (run_mlps(weights, features) - targets).square().mean((1, 2))
