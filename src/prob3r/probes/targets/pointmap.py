"""The pointmap: each pixel's 3D point in camera 1's frame, and the model's confidence.

Points are fitted in the space before the exponential, in which a linear head is linear: the
direction times `log1p` of the distance. There is no true confidence, so a probe always predicts the
model's own final confidence. If the model predicts none, the goal is the lowest confidence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import finite, norm_factor, patchify
from prob3r.models.heads import compress_points, expand_points
from prob3r.models.protocol import Prediction
from prob3r.probes.targets.target import OWN, PIXEL, TRUTH, Goals, Target, Whose
from prob3r.scenes.views import Views

_LEAST = 1e-6  # least confidence minus 1; some models predict a confidence of 1 everywhere


class Pointmap(Target):
    """Each pixel's 3D point in camera 1's frame, in units of the mean distance to camera 1."""

    name = "pointmap"
    title = "pointmaps"
    level = PIXEL
    channels = 3
    shared = 1
    measures = ("pointmap error",)
    own = True

    def goals(
        self, views: Views, output: Prediction | None, patch: int, whose: tuple[Whose, ...]
    ) -> list[Goals | None]:
        """Return the goals of every view; see `Target.goals`.

        The unit of true points is the mean distance of all views' points to camera 1. The model's
        own points are in the unit of the model.
        """
        points: dict[Whose, Sequence[Tensor]] = {}
        units: dict[Whose, Tensor] = {}
        valid = [torch.ones_like(view.image[:, 0], dtype=torch.bool) for view in views.views]
        stated = output.confidence if output is not None else ()
        confidence: Sequence[Tensor] = stated or [
            torch.ones_like(v, dtype=torch.float32) for v in valid
        ]
        if output is not None and output.points:
            points[OWN], valid = output.points, [finite(p) for p in output.points]
            units[OWN] = norm_factor(output.points, valid)
        if TRUTH in whose:
            if not views.has_truth:
                raise Prob3rError(
                    "The truth of these scenes is not known, so probes cannot be fitted to it; fit "
                    f"them to '{OWN}', the model's own final output."
                )
            unit = norm_factor(views.points, views.valid)
            points[TRUTH] = [p / unit[:, None, None, None] for p in views.points]
            units[TRUTH] = torch.ones_like(unit)
            valid = [both[0] & both[1] for both in zip(valid, views.valid, strict=True)]
        found: list[Goals | None] = []
        for v, sure in enumerate(confidence):
            channels = [compress_points(points[each][v].float()) for each in whose]
            channels.append((sure.float() - 1).clamp(min=_LEAST).log()[..., None])
            cells = patchify(torch.cat(channels, -1), patch)  # b n p c
            known = patchify(valid[v].float()[..., None], patch).flatten(2).all(-1)  # b n
            raw = cells.mT.flatten(2).flatten(0, 1).nan_to_num(0, 0, 0)
            by_patch = {each: units[each][:, None].expand_as(known).flatten() for each in whose}
            found.append(Goals(raw, known.flatten(), by_patch))
        return found

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view, without a confidence."""
        found = self.goals(views, None, patch, (TRUTH,))[view - 1]
        assert found is not None
        return found

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the mean distance between predicted and true points, divided by `units`."""
        distance = _norm(_points(predicted) - _points(true))[:, 0]
        return {self.measures[0]: (distance / units[:, None]).mean(1)}

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 3"]:
        """Return the points, without their confidence."""
        return expand_points(raw[..., :3])


def _points(raw: Float[Tensor, "n o"]) -> Float[Tensor, "n 3 p"]:
    """Return points as `expand_points` does. With channels on their own axis it is far faster."""
    xyz = raw.unflatten(-1, (3, -1))
    norm = _norm(xyz)
    return xyz / norm.clamp(min=1e-8) * norm.expm1()


def _norm(xyz: Float[Tensor, "n 3 p"]) -> Float[Tensor, "n 1 p"]:
    return xyz.square().sum(1, keepdim=True).sqrt()
