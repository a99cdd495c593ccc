"""Protocols of video depth: AbsRel and the share of ratios below 1.25, by alignment."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from prob3r.geometry import DepthAlignment, align_depth, depth_errors
from prob3r.scenes.readers.videos import Videos
from prob3r.scenes.views import Views
from prob3r.studies.protocols.protocol import ChosenScenes, Key, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction

ALIGNMENTS: tuple[DepthAlignment, ...] = ("scale", "scale and shift")
PIXELS = "pixels"


class Depths(Protocol):
    """Depth of all frames of a sequence, aligned once for the whole sequence.

    The mean over sequences is weighted by the number of pixels with a known true depth. Depth is
    compared at the resolution and in the crop in which the model sees the frames.

    Attributes:
        clipped: The largest depth. Larger predictions are set to it after the alignment.
    """

    clipped: ClassVar[int | float | None] = None

    alignment = (
        "for each sequence, named beside each metric: a scale of least absolute differences (ten "
        "steps of Weiszfeld), or a scale and a shift (1000 steps of Adam of 1e-4)"
    )
    checked = "yyfz/Pi3, branch evaluation, 97ce97b8: utils/depth.py, depth_evaluation"
    metrics: ClassVar[Sequence[Metric]] = [
        metric
        for how in ALIGNMENTS
        for metric in (
            Metric(f"AbsRel ({how})", "smaller", weight=PIXELS),
            Metric(f"δ<1.25 ({how})", "larger", weight=PIXELS),
        )
    ]

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one sequence, by alignment, and the number of pixels that count."""
        own, truth = [], []
        for view, depth in zip(scene.views, found.depth, strict=True):
            assert view.depth is not None  # readers of these data sets give depth
            counted = view.known & (view.depth < (self.farthest or torch.inf))
            own.append(depth[counted])
            truth.append(view.depth[counted])
        predicted, true = torch.cat(own), torch.cat(truth)
        values = {PIXELS: float(len(true))}
        for how in ALIGNMENTS:
            fit = align_depth(predicted, true, how)
            errors = depth_errors(predicted, true, fit, self.clipped)
            values[f"AbsRel ({how})"] = float(errors.abs_rel)
            values[f"δ<1.25 ({how})"] = float(errors.delta)
        return values


def films_chosen(videos: Videos, words: str) -> ChosenScenes:
    """Return all frames of all films."""
    keys: list[Key] = []
    names = []
    for film in videos.films:
        keys.append((film.name, list(range(film.first, film.first + len(film.images)))))
        names.append([f"{film.name}/{image.stem}" for image in film.images])
    return ChosenScenes(videos, keys, names, words)
