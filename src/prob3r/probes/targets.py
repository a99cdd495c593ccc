"""What probes are fitted to say of a batch: the truth, and the model's own final output.

Points are fitted in the space in which a linear head is linear, before the exponential: the
direction times `log1p` of the distance. The confidence that a probe reads is the model's own final
one, whatever its points are fitted to, since there is no true confidence; it is the least there is
where the model predicts none.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import norm_factor, patchify
from prob3r.models.heads import compress_points
from prob3r.models.protocol import Prediction
from prob3r.scenes.views import Views

Target = Literal["truth", "own"]

TRUTH: Target = "truth"
OWN: Target = "own"
TARGETS: tuple[Target, ...] = (TRUTH, OWN)

_LEAST = 1e-6  # of a confidence above 1; some models say no confidence but 1

TARGET_WORDS = {TRUTH: "the truth", OWN: "the model's own final output"}


class Columns(NamedTuple):
    """Which outputs of a regression belong to which target.

    Attributes:
        targets: The targets, in their order.
        pixels: Pixels in a patch.
    """

    targets: tuple[Target, ...]
    pixels: int

    @property
    def width(self) -> int:
        """The number of outputs: three a pixel for each target, and one for the confidence."""
        return (3 * len(self.targets) + 1) * self.pixels

    def points(self, target: Target) -> slice:
        """Return the outputs that are a target's points."""
        start = 3 * self.pixels * self.targets.index(target)
        return slice(start, start + 3 * self.pixels)

    @property
    def confidence(self) -> slice:
        """The outputs that are confidences."""
        return slice(self.width - self.pixels, self.width)


class ViewTargets(NamedTuple):
    """What the patches of one view of a batch are to say.

    Attributes:
        raw: The outputs of each patch, as `Columns` orders them, channel by channel.
        known: Of which patches every target is known in all their pixels.
        units: By target, the unit of each patch's scene: errors are divided by it.
    """

    raw: Float[Tensor, "n o"]
    known: Bool[Tensor, " n"]
    units: dict[Target, Float[Tensor, " n"]]

    def rows(self, chosen: Bool[Tensor, " n"]) -> "ViewTargets":
        """Return the targets of some patches."""
        units = {target: unit[chosen] for target, unit in self.units.items()}
        return ViewTargets(self.raw[chosen], self.known[chosen], units)


def targets_of(views: Views, output: Prediction, patch: int, columns: Columns) -> list[ViewTargets]:
    """Return the targets of every view of a batch, patch by patch.

    True points are in the unit in which all views together have a mean distance of 1, and the
    model's own in the unit of the model.

    Args:
        views: The batch; with its truth if that is a target.
        output: What the model says of it.
        patch: Side of a patch, in pixels.
        columns: Which targets.

    Raises:
        Prob3rError: The truth is a target, and the batch has none.
    """
    points: dict[Target, Sequence[Tensor]] = {}
    units: dict[Target, Tensor] = {}
    valid = [torch.ones_like(view.image[:, 0], dtype=torch.bool) for view in views.views]
    confidence = output.confidence or [torch.ones_like(v, dtype=torch.float32) for v in valid]
    if output.points:
        points[OWN], valid = output.points, [p.isfinite().all(-1) for p in output.points]
        units[OWN] = norm_factor(output.points, valid)
    if TRUTH in columns.targets:
        if not views.has_truth:
            raise Prob3rError(
                "The truth of these scenes is not known, which probes are to be fitted to; fit "
                f"them to '{OWN}', the model's own final output."
            )
        unit = norm_factor(views.points, views.valid)
        points[TRUTH] = [p / unit[:, None, None, None] for p in views.points]
        units[TRUTH] = torch.ones_like(unit)
        valid = [both[0] & both[1] for both in zip(valid, views.valid, strict=True)]
    found = []
    for v, sure in enumerate(confidence):
        channels = [compress_points(points[target][v].float()) for target in columns.targets]
        channels.append((sure.float() - 1).clamp(min=_LEAST).log()[..., None])
        cells = patchify(torch.cat(channels, -1), patch)  # b n p c
        known = patchify(valid[v].float()[..., None], patch).flatten(2).all(-1)  # b n
        raw = cells.mT.flatten(2).flatten(0, 1).nan_to_num(0, 0, 0)
        by_patch = {t: units[t][:, None].expand_as(known).flatten() for t in columns.targets}
        found.append(ViewTargets(raw, known.flatten(), by_patch))
    return found


def errors_of(
    predicted: Float[Tensor, "n o"], true: Float[Tensor, "n o"], units: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean distance of points in their unit, given the outputs of one target."""
    distance = _norm(_points(predicted) - _points(true))[:, 0]
    return (distance / units[:, None]).mean()


def _points(raw: Float[Tensor, "n o"]) -> Float[Tensor, "n 3 p"]:
    """Return points as `expand_points` does; with their channels apart, which is far faster."""
    xyz = raw.unflatten(-1, (3, -1))
    norm = _norm(xyz)
    return xyz / norm.clamp(min=1e-8) * norm.expm1()


def _norm(xyz: Float[Tensor, "n 3 p"]) -> Float[Tensor, "n 1 p"]:
    return xyz.square().sum(1, keepdim=True).sqrt()
