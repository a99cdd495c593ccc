"""Protocols of video depth: AbsRel and the share of ratios below 1.25, by alignment."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from prob3r.geometry import DepthAlignment, align_depth, depth_errors
from prob3r.scenes.framing import FramesImages, Framing
from prob3r.scenes.readers import Reader
from prob3r.scenes.views import Views
from prob3r.studies.protocols.lists import Places, refuse_list, sets_by_places
from prob3r.studies.protocols.protocol import Chosen, Metric, Protocol
from prob3r.studies.protocols.reconstruct import Reconstruction

ALIGNMENTS: tuple[DepthAlignment, ...] = ("scale", "scale and shift")
PIXELS = "pixels"


class Depths(Protocol):
    """Depth of all frames of a sequence, aligned once for the whole sequence.

    Sequences are averaged by the number of pixels whose true depth is known. The truth is compared
    at the resolution and in the crop in which the model sees the frames. Predicted depth beyond
    the farthest that counts is set to it.
    """

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

    def choose(self, path: Path, model: FramesImages | Framing, listed: Path | None) -> Chosen:
        """Return the sequences' frames."""
        refuse_list(self.name, listed)
        reader = self.reader(path, model)
        return Chosen.of(sets_by_places(reader, self.places(reader)), f"all sequences of {path}")

    def reader(self, path: Path, model: FramesImages | Framing) -> Reader:
        """Return the data set."""
        raise NotImplementedError

    def places(self, reader: Reader) -> Places:
        """Return the places of the frames."""
        raise NotImplementedError

    def measure(self, number: int, scene: Views, found: Reconstruction) -> dict[str, float]:
        """Return the errors of one sequence, by alignment, and how many pixels counted."""
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
            errors = depth_errors(predicted, true, fit, self.farthest)
            values[f"AbsRel ({how})"] = float(errors.abs_rel)
            values[f"δ<1.25 ({how})"] = float(errors.delta)
        return values
