"""Protocols of dense matches: end-point error and PCK of view 2's pixels in view 1."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PixelMatches, matches_by_descriptors, matches_by_points
from prob3r.models import Prediction
from prob3r.scenes.views import Views
from prob3r.studies.protocols.protocol import Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction

SIDE = 240  # pixels; view 1 is taken to have this width and height when errors are counted
WITHIN = (1, 3, 5)
PIXELS = "pixels"


class Matching(Protocol):
    """Where the pixels of view 2 lie in view 1, by what the model predicts.

    If the model has descriptors, the match of a pixel is the pixel of view 1 with the most similar
    descriptor. Otherwise it is the pixel of view 1 with the nearest predicted point. Errors are
    counted as if view 1 were 240x240 pixels, whatever its shape. The end-point error is averaged
    over the pixels of a pair and then over pairs. PCK@k is the share of all pixels of all pairs
    that are wrong by at most k pixels. A pixel counts if its true match lies in the part of view 1
    that the model sees.
    """

    alignment = "none; errors in pixels of view 1 scaled to 240x240"
    metrics: ClassVar[Sequence[Metric]] = [
        Metric("end-point error", "smaller", "px"),
        *(Metric(f"PCK@{k}", "larger", weight=PIXELS) for k in WITHIN),
    ]

    @abstractmethod
    def truth(self, number: int, scene: Views) -> tuple[PixelMatches, tuple[float, float]]:
        """Return the true matches of one pair, and the scale of its errors.

        Returns:
            The matches, in pixels of the framed views; and the scale along x and y: the number of
            pixels of a 240x240 image in one pixel of the framed view 1.
        """

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one pair, and the number of pixels that count."""
        truth, scale = self.truth(number, scene)
        matches = predicted_matches(found.predictions[0])
        pixels, visible = (t[0].to(matches.device) for t in truth)
        off = (matches - pixels)[visible] * torch.tensor(scale).to(matches)
        distance = off.norm(dim=-1)
        values = {PIXELS: float(len(distance)), "end-point error": float(distance.mean())}
        return values | {f"PCK@{k}": float((distance <= k).float().mean()) for k in WITHIN}


def predicted_matches(prediction: Prediction) -> Float[Tensor, "h w 2"]:
    """Return the pixel of view 1 that matches each pixel of view 2 of one pair."""
    if prediction.descriptors is not None:
        one, two = prediction.descriptors[:2]
        return matches_by_descriptors(two[0], one[0])
    one, two = prediction.points[:2]
    return matches_by_points(two[0], one[0])
