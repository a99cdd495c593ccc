"""Arrows: how far every patch of view 2 moves from one step to the next."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.displacement import Field, covered, patch_means
from prob3r.report.reference import TRUTH, Points, Reference
from prob3r.report.steps import Step


class Arrows(NamedTuple):
    """View 2's patches on their way; an arrow of a step begins where the patch was one step before.

    Attributes:
        means: Mean point of every patch at every step, in the pair's unit; NaN where it has none.
        lengths: Mean length of every step's arrows; NaN for a step that no sublayer makes.
        alignments: Mean cosine between them and the way to the true position; NaN where that is
            not known.
    """

    means: Float[Tensor, "steps n 3"]
    lengths: list[float]
    alignments: list[float]

    @classmethod
    def of(
        cls, steps: Sequence[Step], points: Sequence[Points], reference: Reference, patch: int
    ) -> "Arrows":
        """Return the arrows of one pair.

        Args:
            steps: The steps.
            points: Both views' pointmaps at every step, in the pair's unit.
            reference: Where the patches truly are, if that is what it holds.
            patch: Side of a patch, in pixels.
        """
        finite = [second.isfinite().all(dim=-1) for _, second in points]
        means = [
            patch_means(second, seen, patch).where(covered(seen, patch)[..., None] > 0, torch.nan)
            for (_, second), seen in zip(points, finite, strict=True)
        ]
        true, valid = reference.points[1], reference.valid[1]
        target = patch_means(true, valid, patch)
        known = (covered(valid, patch) > 0.5) & (reference.kind == TRUTH)
        lengths, alignments = [torch.nan], [torch.nan]
        for before, after, step in zip(means, means[1:], steps[1:], strict=False):
            drawn = (before + after).isfinite().all(dim=-1) & (step.sublayer != "output")
            field = Field(before, after - before, target, drawn)
            lengths.append(float(field.size(drawn)))
            alignments.append(float(field.alignment(known)))
        return cls(torch.cat(means), lengths, alignments)
