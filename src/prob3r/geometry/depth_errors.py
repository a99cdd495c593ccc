"""Errors of depth maps after an alignment to the true depths: a scale, or a scale and a shift."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

DepthAlignment = Literal["none", "median", "scale", "scale and shift"]
"""How predicted depths are aligned with the true depths; see `align_depth`."""

_WEISZFELD_STEPS = 10
_TINY = 1e-8  # in the unit of the truth; bounds the Weiszfeld weight of a depth that already fits
_LEAST_SCALE = 1e-3
_ADAM_STEPS = 1000
_ADAM_RATE = 1e-4
_ADAM_ENOUGH = 1e-6


class DepthFit(NamedTuple):
    """The map `depth -> scale * depth + shift`; the shift is in the unit of the truth."""

    scale: float
    shift: float


def align_depth(
    predicted: Float[Tensor, " n"], true: Float[Tensor, " n"], how: DepthAlignment
) -> DepthFit:
    """Scale and shift that align predicted depths with true depths, one fit for all of them.

    Args:
        predicted: Predicted depths of all pixels that count, of all views of a scene.
        true: True depths of the same pixels.
        how: `none` gives scale 1 and shift 0. `median` takes the ratio of the medians as the scale.
            `scale` minimises the sum of absolute differences by ten steps of iteratively reweighted
            least squares, which start from the ratio of the means. `scale and shift` minimises the
            same sum by at most 1000 steps of Adam with learning rate 1e-4, which start from the
            ratio of the medians and shift 0. The public evaluations of video depth do the same; it
            moves the shift by about 0.1 at most.
    """
    if how == "none":
        return DepthFit(1.0, 0.0)
    if how == "scale":
        scale = true.mean() / predicted.mean()
        for _ in range(_WEISZFELD_STEPS):
            pull = 1 / ((scale * predicted - true).abs() + _TINY)
            scale = (pull * predicted * true).sum() / (pull * predicted.square()).sum()
        return DepthFit(float(scale.clamp(min=_LEAST_SCALE)), 0.0)
    ratio = float(true.median() / predicted.median())
    return DepthFit(ratio, 0.0) if how == "median" else _descend(predicted, true, ratio)


def _descend(predicted: Float[Tensor, " n"], true: Float[Tensor, " n"], start: float) -> DepthFit:
    """Minimise the sum of absolute differences over scale and shift with Adam."""
    with torch.enable_grad():
        scale = predicted.new_tensor(start).requires_grad_()
        shift = predicted.new_tensor(0.0).requires_grad_()
        optimizer = torch.optim.Adam([scale, shift], lr=_ADAM_RATE)
        before = torch.inf
        for _ in range(_ADAM_STEPS):
            optimizer.zero_grad()
            loss = (scale * predicted.detach() + shift - true).abs().sum()
            loss.backward()
            optimizer.step()
            total = float(loss.detach())
            if abs(before - total) < _ADAM_ENOUGH:
                break
            before = total
    return DepthFit(float(scale.detach()), float(shift.detach()))


class DepthErrors(NamedTuple):
    """Errors of depths over the pixels that count.

    Attributes:
        abs_rel: Mean of `|depth - true| / true`.
        delta: Share of the pixels with `max(depth / true, true / depth) < 1.25`.
    """

    abs_rel: Float[Tensor, ""]
    delta: Float[Tensor, ""]


def depth_errors(
    predicted: Float[Tensor, " n"],
    true: Float[Tensor, " n"],
    fit: DepthFit,
    farthest: int | float | None = None,
) -> DepthErrors:
    """Errors of predicted depths after alignment.

    Args:
        predicted: As in `align_depth`.
        true: As in `align_depth`; positive.
        fit: The scale and the shift of the alignment.
        farthest: Larger depths, after the alignment, are set to this depth. In the unit of the
            truth.
    """
    aligned = fit.scale * predicted + fit.shift
    if farthest is not None:
        aligned = aligned.clamp(max=farthest)
    abs_rel = ((aligned - true).abs() / true).mean()
    aligned = aligned.clamp(min=1e-5)  # a depth that is not positive then counts as wrong
    ratio = torch.maximum(aligned / true, true / aligned)
    return DepthErrors(abs_rel, (ratio < 1.25).to(aligned).mean())
