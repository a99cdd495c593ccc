"""The instance: which of a scene's objects a patch shows.

Objects have no order and no name, so a probe cannot predict a number for each. It predicts where
the object is: the mean of its true points in all views, in camera 1's frame. All patches of one
object have the same goal, in every view. Objects that look alike have different goals. A patch is
then assigned to the object whose centre is nearest to the prediction. The central pixel decides
which object a patch shows. Walls and the ground are not objects.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import central_pixels, norm_factor
from prob3r.models.heads import compress_points, expand_points
from prob3r.probes.targets.target import PATCH, Goals, Target
from prob3r.scenes.views import Views

MOST = 64
"""Labels of this value and above count as no object."""


class Instance(Target):
    """The centre of the object that a patch shows, in the unit of the pointmap."""

    name = "instance"
    title = "instances"
    level = PATCH
    channels = 3
    measures = ("patches given to another object", "distance to the centre")

    def lacks(self, views: Views) -> str:
        """Return in words what scenes lack for this target; empty if they lack nothing."""
        if any(view.labels is None for view in views.views):
            return "they do not say which object a pixel shows"
        return super().lacks(views)

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view; see `Target.truth`."""
        centres = _centres(views)
        labels = views.view(view).labels
        assert labels is not None
        shown = central_pixels(labels, patch).flatten(1).long()  # b n
        known = central_pixels(views.valid[view - 1], patch).flatten(1)
        known = known & (shown > 0) & (shown < MOST)
        goals = centres.gather(1, shown.clamp(0, MOST - 1)[..., None].expand(-1, -1, 3))
        others = centres[:, None].expand(-1, shown.shape[1], -1, -1).flatten(0, 1)
        choice = (~others[..., 0].isnan()).sum(-1) > 1
        raw = compress_points(goals).flatten(0, 1)
        return Goals.of_truth(raw, known.flatten() & choice, beside=others)

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return 1 if another object's centre is nearer, else 0; and the distance to the centre."""
        assert beside is not None
        found, right = expand_points(predicted), expand_points(true)
        distances = (beside - found[:, None]).norm(dim=-1).nan_to_num(torch.inf, torch.inf)
        near = (beside - right[:, None]).norm(dim=-1).nan_to_num(torch.inf, torch.inf)
        wrong = distances.argmin(1) != near.argmin(1)
        values = wrong.float(), (found - right).norm(dim=-1)
        return dict(zip(self.measures, values, strict=True))

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 3"]:
        """Return the centre."""
        return expand_points(raw)


def _centres(views: Views) -> Float[Tensor, "b k 3"]:
    """Return the mean point of every label of each scene, NaN for labels that no view shows."""
    unit = norm_factor(views.points, views.valid)[:, None, None]
    sums = unit.new_zeros(len(views), MOST, 3)
    counts = unit.new_zeros(len(views), MOST, 1)
    for view, points, valid in zip(views.views, views.points, views.valid, strict=True):
        assert view.labels is not None
        counted = valid & (view.labels > 0) & (view.labels < MOST)
        labels = view.labels.where(counted, 0).long().flatten(1)[..., None]
        weights = counted.to(unit).flatten(1)[..., None]
        xyz = points.masked_fill(~counted[..., None], 0).flatten(1, 2)
        sums.scatter_add_(1, labels.expand_as(xyz), xyz)
        counts.scatter_add_(1, labels, weights)
    return (sums / counts / unit).where(counts > 0, torch.nan)
