"""Arrows: how far every patch of a view moves from one step to the next."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import finite
from prob3r.measures.displacement import Field, covered, patch_means
from prob3r.measures.reference import TRUTH, Points, Reference
from prob3r.measures.steps import OUTPUT, Step


class Arrows(NamedTuple):
    """The mean points of a view's patches at every step.

    An arrow of a step goes from a patch's mean point at the step before to its mean point here.

    Attributes:
        means: Mean point of every patch at every step, in the views' joint unit; NaN where it has
            none.
        lengths: Mean length of every step's arrows; NaN for the first step and for the output.
        alignments: Mean cosine between the arrows and the directions to the true positions; NaN as
            for `lengths`, and where these are not known.
    """

    means: Float[Tensor, "steps n 3"]
    lengths: list[float]
    alignments: list[float]

    @classmethod
    def of(
        cls,
        steps: Sequence[Step],
        points: Sequence[Points],
        reference: Reference,
        patch: int,
        view: int = 2,
    ) -> "Arrows":
        """Return the arrows of one view.

        Args:
            steps: The steps.
            points: All views' pointmaps at every step, in the views' joint unit.
            reference: Holds the true positions if its kind is `TRUTH`.
            patch: Side of a patch, in pixels.
            view: Number of the view.
        """
        own = [every[view - 1] for every in points]
        masks = [finite(p) for p in own]
        means = [
            patch_means(p, seen, patch).where(covered(seen, patch)[..., None] > 0, torch.nan)
            for p, seen in zip(own, masks, strict=True)
        ]
        true, valid = reference.points[view - 1], reference.valid[view - 1]
        target = patch_means(true, valid, patch)
        known = (covered(valid, patch) > 0.5) & (reference.kind == TRUTH)
        lengths, alignments = [torch.nan], [torch.nan]
        for before, after, step in zip(means, means[1:], steps[1:], strict=False):
            drawn = (before + after).isfinite().all(dim=-1) & (step.sublayer != OUTPUT)
            field = Field(before, after - before, target, drawn)
            lengths.append(float(field.size(drawn)))
            alignments.append(float(field.alignment(known)))
        return cls(torch.cat(means), lengths, alignments)
