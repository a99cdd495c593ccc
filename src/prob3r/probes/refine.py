"""Refinement of a fit in closed form by gradient descent on a target's own loss."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.probes.equations import Solutions
from prob3r.probes.targets import Goals, Target

STEPS = 200
RATE = 5e-3
CHECK_EVERY = 20  # steps
_SMALLEST = 1e-9  # a sum of squares under which an input does not vary


class Refined(NamedTuple):
    """An affine map after refinement.

    Attributes:
        weight: The weight of the inputs, in their own units.
        bias: The bias of the outputs.
        error: The error on the held-out rows.
    """

    weight: Float[Tensor, "i o"]
    bias: Float[Tensor, " o"]
    error: float


def refine(
    target: Target,
    solutions: Solutions,
    ridge: float,
    fitted: tuple[Float[Tensor, "n i"], Goals],
    held: tuple[Float[Tensor, "m i"], Goals],
) -> Refined:
    """Return the map of one ridge after refinement by a target's loss.

    Adam minimises the loss over all fitted rows. It works in the basis of the inputs in which the
    regularised Gram matrix is the identity. The error on the held-out rows is computed before the
    first step and after every `CHECK_EVERY` steps. The map with the smallest error is returned.

    Args:
        target: The target. Its `loss` is minimised, and its `errors` choose the map.
        solutions: The solutions in closed form.
        ridge: The ridge of the map to start from.
        fitted: Inputs and goals of the fitted rows.
        held: Inputs and goals of the held-out rows.
    """
    total = solutions.values + ridge * solutions.values.mean()
    varies = total > _SMALLEST  # inputs that do not vary carry no information
    spread = (total / len(fitted[0])).sqrt().where(varies, 1)
    inputs, held_inputs = (solutions.rotate(x) * varies / spread for x, _ in (fitted, held))
    start = (solutions.cross / total[:, None]).where(varies[:, None], 0) * spread[:, None]
    weight, bias = start.clone(), solutions.output_mean.clone()
    optimizer = torch.optim.Adam([weight.requires_grad_(), bias.requires_grad_()], lr=RATE)
    kept, least = (start, solutions.output_mean), torch.inf
    for step in range(STEPS + 1):
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                error = held_error(target, held_inputs @ weight + bias, held[1])
            if error < least:
                kept, least = (weight.detach().clone(), bias.detach().clone()), error
        with torch.enable_grad():
            optimizer.zero_grad()
            target.loss(inputs @ weight + bias, fitted[1]).backward()
        optimizer.step()
    found = solutions.vectors @ (kept[0] / spread[:, None])
    return Refined(found, kept[1] - solutions.input_mean @ found, least)


def held_error(target: Target, predicted: Float[Tensor, "n o"], goals: Goals) -> float:
    """Return the mean of a target's first measure over rows whose goals are the truth's alone."""
    (units,) = goals.units.values()
    measured = target.errors(predicted, goals.raw, units, goals.beside)
    return measured[target.measures[0]].nanmean().item()
