"""Targets between a view and another view: whether it sees a patch, and where the patch lies in it.

The other view is view 1; for view 1 itself it is view 2. A patch stands for its central pixel, as
in `prob3r.geometry.patch_matches`.
"""

from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import MatchTruth, PixelMatches, central_matches, central_pixels
from prob3r.probes.targets.target import PATCH, Goals, Target, partner
from prob3r.scenes.views import Views

_HALF = 0.5
_NEAR = 1  # rows or columns, as in PCK@1


class CoVisibility(Target):
    """Whether the other view sees a patch's point: 1 or 0. Above 0.5 counts as seen."""

    name = "covisibility"
    title = "co-visibility"
    level = PATCH
    channels = 1
    measures = ("patches misjudged",)

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view; see `Target.truth`."""
        truth, matches = _matches(views, view, patch)
        known = central_pixels(truth.valid2, patch)
        return Goals.of_truth(matches.visible.float().flatten()[:, None], known.flatten())

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return 1 for a patch that is judged wrongly, else 0."""
        wrong = (predicted > _HALF) != (true > _HALF)
        return {self.measures[0]: wrong[:, 0].float()}

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 1"]:
        """Return the number, from 0 for hidden to 1 for seen."""
        return raw.clamp(0, 1)


class Match(Target):
    """Where a patch's point lies in the other view: column and row, in patches.

    The middle of the first patch is at (0, 0). Patches that the other view does not see have no
    match.
    """

    name = "match"
    title = "matches"
    level = PATCH
    channels = 2
    measures = ("end-point error (patches)", "PCK@1")

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view; see `Target.truth`."""
        _, matches = _matches(views, view, patch)
        places = (matches.pixels + _HALF) / patch - _HALF
        return Goals.of_truth(places.flatten(0, 2), matches.visible.flatten())

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the distance in patches, and whether it is right within one row and one column."""
        near = ((predicted + _HALF).floor() - (true + _HALF).floor()).abs().amax(1) <= _NEAR
        distance: Tensor = (predicted - true).norm(dim=1)
        return dict(zip(self.measures, (distance, near.float()), strict=True))

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 2"]:
        """Return the column and the row."""
        return raw


def _matches(views: Views, view: int, patch: int) -> tuple[MatchTruth, PixelMatches]:
    """Return the truth that a view's matches are computed from, and the matches of its patches."""
    truth = views.pair(partner(view), view).match_truth
    return truth, central_matches(truth, patch)
