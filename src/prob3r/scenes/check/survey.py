"""A survey of a data set: its contents and its faults."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PixelMatches, pixel_matches, rotation_angle
from prob3r.scenes.readers import CorruptError, Reader
from prob3r.scenes.readers.corrupt import LIMIT
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Pairs, read_each
from prob3r.scenes.views import Pair

OUT_OF_RANGE = "depth out of range"
STRAY = 0.01  # largest share of a view's depth that may be out of range
# Least correlation of matched colours; right conventions give 0.8 or more, wrong ones about 0.
AGREES = 0.5

_FEWEST = 32  # fewest matched pixels for a comparison of colours


@dataclass(frozen=True)
class PairCheck:
    """Measurements of one pair.

    Attributes:
        number: Its number in the data set.
        name: Its name.
        overlap: Share of view 2's valid pixels that view 1 sees.
        rotation: Angle between the cameras, in degrees.
        baseline: Distance between the cameras, as a share of view 1's median depth.
        depth: Nearest, median and farthest depth of both views, in the scene's unit.
        agreement: Correlation of the colours of matched pixels. It is near 1 if the conventions are
            right. NaN for a pair with too few matches.
    """

    number: int
    name: str
    overlap: float
    rotation: float
    baseline: float
    depth: tuple[float, float, float]
    agreement: float


@dataclass
class Survey:
    """Results of a survey of a data set.

    Attributes:
        scenes, frames: Number of scenes and frames; 0 if the pairs do not come from a `Reader`.
        pairs: Number of pairs.
        asked_frames: Number of frames whose files and cameras were checked.
        asked: Number of pairs that were read in full.
        checks: Measurements of the pairs that could be read and have ground truth.
        faults: Sentences that describe the faults, by kind of fault.
        faulty_pairs, faulty_frames: Number of pairs and frames with a fault.
    """

    scenes: int
    frames: int
    pairs: int
    asked_frames: int
    asked: int
    checks: list[PairCheck] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    faulty_pairs: int = 0
    faulty_frames: int = 0

    def add(self, kind: str, sentence: str) -> bool:
        """Note a fault, and return whether it is new."""
        new = sentence not in self.faults[kind]
        if new:
            self.faults[kind].append(sentence)
        return new

    @property
    def usable(self) -> bool:
        """Whether a run over this data set would not stop because of too many faults."""
        return (
            self.faulty_pairs <= LIMIT * self.asked
            and self.faulty_frames <= LIMIT * self.asked_frames
        )

    @property
    def doubt(self) -> str:
        """A sentence that says why the conventions are probably wrong; empty if they look right."""
        agreement = self.median("agreement")
        if not self.checks or agreement >= AGREES:
            return ""
        return (
            "Points that the truth calls one do not look like one: the poses' axes or direction, "
            "the unit of depth, or the intrinsics are probably not what this layout expects."
        )

    def histogram(self, bins: int = 10) -> list[int]:
        """Return the number of pairs in each bin of overlap; bins have equal width, from 0 to 1."""
        counts = [0] * bins
        for check in self.checks:
            counts[min(int(check.overlap * bins), bins - 1)] += 1
        return counts

    def median(self, name: str) -> float:
        """Return the median of an attribute over all checks; NaN if there are none."""
        values = torch.tensor([getattr(check, name) for check in self.checks])
        return float(values.nanmedian()) if len(values) else torch.nan


def survey(
    pairs: Pairs,
    count: int = 128,
    frames: int = 20_000,
    *,
    depth_range: tuple[int | float, int | float] | None = None,
    seed: int = 0,
    report: Callable[[str, float], None] = lambda what, share: None,
) -> Survey:
    """Check a data set: the files and cameras of many frames, and some pairs in full.

    Args:
        pairs: The data set, opened with `strict=False` if it may have faults.
        count: Largest number of pairs to read.
        frames: Largest number of frames to check.
        depth_range: Nearest and farthest plausible depth, in the scene's unit; by default those of
            the layout.
        seed: Seed of the sample of pairs and frames.
        report: Called with the name of the current step and the share of it that is done.
    """
    reader = pairs if isinstance(pairs, Reader) else None
    found = Survey(
        scenes=len(set(reader.scenes)) if reader else 0,
        frames=len(reader.names) if reader else 0,
        pairs=len(pairs),
        asked_frames=min(frames, len(reader.names)) if reader else 0,
        asked=min(count, len(pairs)),
    )
    if reader:
        chosen = random.Random(seed).sample(range(found.frames), found.asked_frames)
        _survey_frames(found, reader, sorted(chosen), report)
    near, far = depth_range or (reader.depth_range if reader else (0, torch.inf))
    numbers = sample(pairs, count, seed).indices
    for done, number in enumerate(numbers):
        report("Pairs", done / len(numbers))
        one = read_each(pairs, [number])
        for item in one.corrupt:
            found.add(item.problem, str(item))
        for pair in one.found:
            stray = _stray(pair, near, far)
            if stray:
                found.add(OUT_OF_RANGE, stray)
            found.faulty_pairs += bool(stray)
            if pair.has_truth:
                found.checks.append(_check_pair(number, pair))
        found.faulty_pairs += bool(one.corrupt)
    return found


def _survey_frames(
    found: Survey, reader: Reader, frames: list[int], report: Callable[[str, float], None]
) -> None:
    """Check whether files of frames exist, and check cameras; read no images and no depth."""
    for done, frame in enumerate(frames):
        report("Frames", done / len(frames))
        faults = 0
        depth = [reader.depth_file(frame)] if reader.has_depth else []
        for file in (reader.image(frame), *depth):
            if not file.is_file():
                found.add("missing file", f"{file} does not exist.")
                faults += 1
        try:
            reader.camera(frame).check(reader.names[frame])
        except CorruptError as item:
            found.add(item.problem, str(item))
            faults += 1
        found.faulty_frames += faults > 0
    for corrupt in reader.corrupt:
        found.faulty_frames += found.add(corrupt.problem, str(corrupt))


def _stray(pair: Pair, near: int | float, far: int | float) -> str | None:
    """Return a sentence if too much of a pair's depth is out of range, else None."""
    for number, view in enumerate((pair.view1, pair.view2), start=1):
        if view.depth is None:
            continue
        depth = view.depth[view.known]
        share = ((depth < near) | (depth > far)).float().mean().item()
        if share > STRAY:
            return (
                f"{pair.names[0]}: {share:.0%} of view {number}'s depth, {depth.min():.3g} to "
                f"{depth.max():.3g}, is not between {near:g} and {far:g}."
            )
    return None


def _check_pair(number: int, pair: Pair) -> PairCheck:
    depths = torch.cat([view.points[..., 2][view.known] for view in (pair.view1, pair.view2)])
    near, middle, far = depths.quantile(torch.tensor([0.0, 0.5, 1.0])).tolist()
    motion = pair.view2_to_view1
    matches = pixel_matches(pair.match_truth)
    return PairCheck(
        number=number,
        name=pair.names[0],
        overlap=pair.overlap().item(),
        rotation=rotation_angle(motion[:, :3, :3]).item(),
        baseline=motion[0, :3, 3].norm().item()
        / pair.view1.points[..., 2][pair.valid[0]].median().item(),
        depth=(near, middle, far),
        agreement=_agreement(pair, matches),
    )


def colours_in_1(pair: Pair, matches: PixelMatches) -> Float[Tensor, "b 3 h w"]:
    """Return the colours of view 1 at the matches of view 2's pixels, by bilinear interpolation."""
    height, width = pair.view1.size
    size = torch.tensor([width, height], dtype=matches.pixels.dtype)
    grid = ((2 * matches.pixels + 1) / size - 1).nan_to_num()
    return F.grid_sample(pair.view1.image, grid, padding_mode="border", align_corners=False)


def _agreement(pair: Pair, matches: PixelMatches) -> float:
    seen = matches.visible[0]
    if seen.sum() < _FEWEST:
        return torch.nan
    both = [
        image[0][:, seen].flatten() for image in (colours_in_1(pair, matches), pair.view2.image)
    ]
    return torch.corrcoef(torch.stack(both))[0, 1].item()
