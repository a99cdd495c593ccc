"""The optimizers of the training runs."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.layers import DecoderBlock, EncoderBlock, ViewsBlock
from prob3r.training.recipe import Recipe


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for the matrices of a network's hidden layers.

    After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
    update scaled to the root mean square of an AdamW step (Liu et al. 2025), so that both share one
    learning rate. `torch.optim.Muon` does the same one matrix at a time in bfloat16, which takes
    longer on a CPU than the rest of the step. Here all matrices of one shape are processed at once.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonalised momentum."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, ...]]] = defaultdict(list)
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                # Fused query-key-value weights are three matrices, not one.
                parts = 3 if p.shape[0] == 3 * p.shape[1] else 1
                for weight, part in zip(p.chunk(parts), update.chunk(parts), strict=True):
                    by_shape[tuple(weight.shape)].append((weight, part))
            for (rows, columns), members in by_shape.items():
                weights, updates = zip(*members, strict=True)
                step = orthogonalise(torch.stack(updates), dtype=self.dtype)
                scale = 0.2 * max(rows, columns) ** 0.5
                for weight, part in zip(weights, step.unbind(), strict=True):
                    weight.sub_(part, alpha=group["lr"] * scale)


def orthogonalise(
    matrices: Float[Tensor, "k m n"], steps: int = 5, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "k m n"]:
    """Return matrices with the same singular vectors and singular values near 1.

    These are Newton-Schulz iterations with Jordan's quintic polynomial. The singular values end
    between about 0.7 and 1.2. The iterations tolerate products in bfloat16.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if matrices.shape[1] <= matrices.shape[2] else x.mT).to(matrices)


def optimizers(model: nn.Module, recipe: Recipe, bf16: bool = False) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a run; each group's learning rate is set before every step.

    Args:
        model: The module to train.
        recipe: Names the optimizer and the weight decay.
        bf16: Whether Muon's products are in bfloat16.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    kinds = EncoderBlock | DecoderBlock | ViewsBlock
    blocks = [module for module in model.modules() if isinstance(module, kinds)]
    hidden = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    muon: list[torch.optim.Optimizer] = []
    if recipe.optimizer == "muon":
        dtype = torch.bfloat16 if bf16 else torch.float32
        muon = [Muon(hidden, lr=0.0, weight_decay=recipe.weight_decay, dtype=dtype)]
        chosen = {id(p) for p in hidden}
        matrices = [p for p in matrices if id(p) not in chosen]
    adamw = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
    )
    return [*muon, adamw]
