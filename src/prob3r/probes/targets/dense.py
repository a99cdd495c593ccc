"""Targets of the surfaces in one view: the depth of its pixels, and the normals of its patches."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import central_pixels, norm_factor, normal_map, patchify
from prob3r.probes.targets.target import PATCH, PIXEL, Goals, Target
from prob3r.scenes.views import Views


class Depth(Target):
    """The logarithm of depth along the view's own z axis, in the unit of the pointmap."""

    name = "depth"
    title = "depth"
    level = PIXEL
    channels = 1
    measures = ("depth error, |log z|",)

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view; see `Target.truth`."""
        unit = norm_factor(views.points, views.valid)
        depth = views.view(view).points[..., 2]
        known = views.valid[view - 1] & (depth > 0)
        values = (depth / unit[:, None, None]).where(known, 1).log()
        cells = patchify(values[..., None], patch).mT.flatten(2)  # b n p
        whole = patchify(known.float()[..., None], patch).flatten(2).all(-1)  # b n
        return Goals.of_truth(cells.flatten(0, 1), whole.flatten())

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the mean absolute difference of logarithms in a patch."""
        return {self.measures[0]: (predicted - true).abs().mean(1)}

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 1"]:
        """Return the depth."""
        return raw.exp()


class Normal(Target):
    """The unit normal of the surface in the view's own camera frame, towards the camera.

    The normal of a patch is that of its central pixel, since most patches contain an edge.
    """

    name = "normal"
    title = "normals"
    level = PATCH
    channels = 3
    measures = ("normal error (degrees)",)

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view; see `Target.truth`."""
        normals, known = normal_map(views.view(view).points, views.valid[view - 1])
        normals, known = central_pixels(normals, patch), central_pixels(known, patch)
        return Goals.of_truth(normals.flatten(0, 2), known.flatten())

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the angle to the true normal."""
        sine = torch.linalg.cross(predicted, true).norm(dim=-1)
        return {self.measures[0]: torch.rad2deg(torch.atan2(sine, (predicted * true).sum(-1)))}

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 3"]:
        """Return the unit normal."""
        return F.normalize(raw, dim=-1)
