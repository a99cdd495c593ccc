"""Targets between the camera of a view and camera 1: its pose, and the epipolar geometry.

One prediction is about a whole view. A probe therefore reads one token of the view, or the mean of
its patches.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import (
    essential,
    fundamental,
    pixel_grid,
    pixel_matches,
    rotation_error,
    sampson_distance,
    translation_error,
)
from prob3r.probes.targets.target import PAIR, TRUTH, Goals, Target, Whose
from prob3r.scenes.views import Views

MATCHES = 64
"""The most matches of a pair that epipolar errors are measured on."""

FEWEST_MATCHES = 8
"""With fewer matches a pair's epipolar error is not measured."""

_SOFT = 0.02  # in half the longer side; far smaller Sampson distances count by their square


class DecodedPose(NamedTuple):
    """Poses of camera 2 in camera 1's frame, without the length of the translation."""

    rotation: Float[Tensor, "*b 3 3"]
    direction: Float[Tensor, "*b 3"]

    @classmethod
    def of(cls, numbers: Float[Tensor, "*b 12"]) -> "DecodedPose":
        """Return the poses that are nearest to a probe's numbers."""
        import roma  # here, so that models train on machines without it

        rotation = roma.special_procrustes(numbers[..., :9].unflatten(-1, (3, 3)))
        return cls(rotation, F.normalize(numbers[..., 9:], dim=-1))


class RelativePose(Target):
    """The pose of a view's camera in camera 1's frame, without the length of the translation.

    The outputs are the nine entries of the rotation matrix, then the unit vector to the camera. The
    nine entries are projected onto the nearest rotation (Levinson et al., An Analysis of SVD for
    Deep Rotation Estimation, NeurIPS 2020).
    """

    name = "pose"
    title = "the relative pose"
    level = PAIR
    channels = 12
    measures = ("rotation error (degrees)", "translation error (degrees)")
    first_view = 2

    def lacks(self, views: Views) -> str:
        """Return in words what scenes lack for this target; empty if they lack nothing."""
        return "" if views.has_poses else "they need poses"

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view. `units` are baselines, in mean depths if known."""
        pair = views.pair(1, view)
        pose = pair.view2_to_view1
        baseline = pose[:, :3, 3].norm(dim=-1)
        if views.has_truth:
            baseline = baseline / pair.mean_depth
        raw = torch.cat((pose[:, :3, :3].flatten(1), F.normalize(pose[:, :3, 3], dim=-1)), 1)
        return Goals.of_truth(raw, raw.isfinite().all(1), baseline)

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return both angles. The translation error is NaN for a short baseline."""
        found, rotation = DecodedPose.of(predicted), true[:, :9].unflatten(-1, (3, 3))
        to_camera = true[:, 9:] * units[:, None]
        values = (
            rotation_error(found.rotation, rotation),
            translation_error(found.direction, to_camera, torch.ones_like(units)),
        )
        return dict(zip(self.measures, values, strict=True))

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 3 4"]:
        """Return the rotation and, as the last column, the unit vector to the camera."""
        found = DecodedPose.of(raw)
        return torch.cat((found.rotation, found.direction[..., None]), -1)


class Epipolar(Target):
    """The fundamental matrix of a view and view 1, of unit norm, on normalised positions.

    Normalised positions have the image's middle at (0, 0) and its longer side from -1 to 1. The
    sign is that of `prob3r.geometry.essential`. The fit starts from least squares on the nine
    numbers, and then minimises the Sampson distances of true matches.
    """

    name = "epipolar"
    title = "epipolar geometry"
    level = PAIR
    channels = 9
    measures = ("Sampson distance (pixels)",)
    first_view = 2
    refined = True

    def truth(self, views: Views, view: int, patch: int) -> Goals:
        """Return the true goals of one view. `units` are half the longer side, in pixels."""
        pair = views.pair(1, view)
        intrinsics = pair.view1.intrinsics, pair.view2.intrinsics
        assert intrinsics[0] is not None
        assert intrinsics[1] is not None
        found = fundamental(essential(pair.view2_to_view1), intrinsics[0], intrinsics[1])
        to_pixels = [_to_pixels(each.size, found) for each in pair.views]
        raw = F.normalize((to_pixels[0].T @ found @ to_pixels[1]).flatten(1), dim=1)
        half = max(pair.view1.size) / 2
        matches = pixel_matches(pair.match_truth)
        own = pixel_grid(*pair.view2.size, device=found.device).expand_as(matches.pixels)
        positions = [
            (pixels - matrix[:2, 2]) / matrix[0, 0]
            for pixels, matrix in zip((matches.pixels, own), to_pixels, strict=True)
        ]
        both = torch.cat(positions, -1).where(matches.visible[..., None], torch.nan)  # b h w 4
        beside = _some(both.flatten(1, 2))
        known = (~beside[..., 0].isnan()).sum(1) >= FEWEST_MATCHES
        known = known & raw.isfinite().all(1) & (raw.norm(dim=1) > 0)
        return Goals.of_truth(raw, known, raw.new_full((len(raw),), half), beside)

    def errors(
        self,
        predicted: Float[Tensor, "n o"],
        true: Float[Tensor, "n o"],
        units: Float[Tensor, " n"],
        beside: Float[Tensor, "n ..."] | None = None,
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the mean Sampson distance of true matches, for the nearest matrix of rank 2."""
        assert beside is not None
        distance = _sampson(self.decode(predicted), beside)
        return {self.measures[0]: distance.nanmean(1) * units}

    def loss(
        self, predicted: Float[Tensor, "n o"], goals: Goals, whose: Whose = TRUTH
    ) -> Float[Tensor, ""]:
        """Return the mean of a robust function of the Sampson distances.

        The function is that of Geman and McClure, `d^2 / (d^2 + s^2)`.
        """
        assert goals.beside is not None
        square = _sampson(predicted.unflatten(-1, (3, 3)), goals.beside).square()
        return (square / (square + _SOFT**2)).nanmean()

    def decode(self, raw: Float[Tensor, "*b c"]) -> Float[Tensor, "*b 3 3"]:
        """Return the nearest matrix of rank 2."""
        u, s, vh = torch.linalg.svd(raw.unflatten(-1, (3, 3)))
        s = s * s.new_tensor([1, 1, 0])
        rank2: Tensor = u @ (s[..., None] * vh)
        return rank2


def _sampson(
    matrices: Float[Tensor, "n 3 3"], positions: Float[Tensor, "n m 4"]
) -> Float[Tensor, "n m"]:
    """Return the Sampson distances, NaN where there is no match."""
    there = ~positions[..., 0].isnan()
    given = positions.nan_to_num()
    distance = sampson_distance(matrices, given[..., :2], given[..., 2:])
    return distance.where(there, torch.nan)


def _to_pixels(size: tuple[int, int], like: Tensor) -> Float[Tensor, "3 3"]:
    """Return the matrix from normalised positions to pixels."""
    height, width = size
    half = max(size) / 2
    return like.new_tensor([[half, 0, (width - 1) / 2], [0, half, (height - 1) / 2], [0, 0, 1]])


def _some(positions: Float[Tensor, "b n 4"]) -> Float[Tensor, "b m 4"]:
    """Return `MATCHES` of each pair's matches, evenly spread; if there are fewer, NaN follows."""
    b, n, _ = positions.shape
    there = ~positions[..., 0].isnan()
    first = (~there).int().argsort(dim=1, stable=True)  # matches go first
    count = there.sum(1, keepdim=True)
    steps = torch.arange(MATCHES, device=positions.device).expand(b, -1)
    spread = (steps * count // MATCHES).where(count > MATCHES, steps).clamp(max=n - 1)
    chosen = positions.gather(1, first.gather(1, spread)[..., None].expand(-1, -1, 4))
    return chosen.where((steps < count)[..., None], torch.nan)
