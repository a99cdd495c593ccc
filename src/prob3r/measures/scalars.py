"""Scalars: differentiable geometric numbers of a run, for attribution and for sweeps.

A scalar is called with the scenes and with the clean output, which is the model's output without
any change. It returns a measure, a function from the output of any run over these scenes to one
number a scene. Lengths are in the unit of the run itself, the mean distance of all its points to
camera 1, so the scale of a run does not matter. `camera_motion` defines where a camera is in a run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    essential,
    finite,
    fundamental,
    norm_factor,
    pointmap_error,
    sampson_distance,
)
from prob3r.measures.camera_motion import (
    axis_of,
    camera,
    camera_before,
    motion,
    tiled,
    twist,
    unit_of,
)
from prob3r.measures.reference import intrinsics_of
from prob3r.models import Prediction
from prob3r.runs.attribution import Measure
from prob3r.scenes import Views


@runtime_checkable
class Scalar(Protocol):
    """A geometric number of a run.

    Attributes:
        name: The name on the command line.
        unit: The unit, such as ` %`, which is printed after the number.
        more: What a larger value means, as a clause.
        words: What the scalar is, as a phrase.
    """

    @property
    def name(self) -> str:
        """The name on the command line."""

    @property
    def unit(self) -> str:
        """The unit, which is printed after the number."""

    @property
    def more(self) -> str:
        """What a larger value means, as a clause."""

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure, given the scenes and the clean output."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """The angle by which a camera is turned about an axis, in degrees.

    Without an axis, it is the angle between the camera and camera 1. With an axis, it is the angle
    between the camera in a run and in the clean run: the twist about the axis, which is smooth.

    Attributes:
        view: The view of the camera.
        axis: Unit vectors in camera 1's frame, `(b, 3)`. The default is the axis of the rotation
            from camera 1 to the camera, so that a larger value means a larger rotation.
        towards: The output of another run, instead of an axis. The axis is then that of the
            rotation from the clean run to this run.
    """

    view: int = 2
    axis: Float[Tensor, "b 3"] | None = None
    towards: Prediction | None = None
    name: ClassVar[str] = "rotation"
    unit: ClassVar[str] = "°"
    more: ClassVar[str] = "the camera turns further"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        return f"the rotation of camera {self.view}"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure. Raise Prob3rError if there is no axis."""
        moved, axis, start = motion(clean, self.view), self.axis, torch.zeros(len(views))
        if axis is None and self.towards is not None:
            axis = axis_of(moved(self.towards).rotation, self.view)
        elif axis is None:
            turned = camera_before(views, clean, self.view)[:, :3, :3]
            axis = axis_of(turned, self.view)
            start = twist(turned, axis)

        def measure(output: Prediction) -> Tensor:
            turn = twist(moved(output).rotation, tiled(axis, output))
            return torch.rad2deg(turn + tiled(start, output))

        return measure


@dataclass(frozen=True)
class Translation:
    """The position of a camera along the line from camera 1 to it, in percent of the mean distance.

    The line is that of the clean run.

    Attributes:
        view: The view of the camera.
    """

    view: int = 2
    name: ClassVar[str] = "translation"
    unit: ClassVar[str] = " %"
    more: ClassVar[str] = "the camera moves away"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        return f"the distance of camera {self.view} from camera 1"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure. Raise Prob3rError if the camera is where camera 1 is."""
        place = camera(views, clean, self.view)
        centre = camera_before(views, clean, self.view)[:, :3, 3]
        length = centre.norm(dim=-1, keepdim=True)
        if not (length > 0).all():
            raise Prob3rError(
                f"Camera {self.view} is where camera 1 is, so its translation has no direction; "
                "use another scalar."
            )
        along = centre / length

        def measure(output: Prediction) -> Tensor:
            moved = place(output)[:, :3, 3] * tiled(along, output)
            return 100 * moved.sum(-1) / unit_of(output)

        return measure


@dataclass(frozen=True, eq=False)
class RegionDepth:
    """The mean depth of a region of a view in its own camera, in percent of the mean distance.

    Attributes:
        view: The view.
        region: The pixels `(h, w)`; all by default.
    """

    view: int = 1
    region: Bool[Tensor, "h w"] | None = None
    name: ClassVar[str] = "depth"
    unit: ClassVar[str] = " %"
    more: ClassVar[str] = "the region moves away"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        what = "the mean depth" if self.region is None else "the depth of a region"
        return f"{what} of view {self.view}"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure. Raise Prob3rError if the region is empty or has another size."""
        size = views.view(self.view).size
        region = torch.ones(size, dtype=torch.bool) if self.region is None else self.region
        if region.shape != size or not region.any():
            raise Prob3rError(
                f"The region is {tuple(region.shape)} pixels with {int(region.sum())} chosen, and "
                f"view {self.view} is {size}; give a mask of that size with pixels chosen."
            )
        place = None if self.view == 1 else camera(views, clean, self.view)

        def measure(output: Prediction) -> Tensor:
            points = output.points[self.view - 1][:, region.to(output.points[0].device)]
            if place is not None:
                pose = place(output)
                points = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
            return 100 * points[..., 2].mean(1) / unit_of(output)

        return measure


@dataclass(frozen=True, eq=False)
class Sampson:
    """The mean Sampson distance of matches, in pixels, by the cameras of the run.

    Attributes:
        pixels1: Positions (x, y) in view 1 of matches, `(b, n, 2)`.
        pixels2: Their positions in the other view.
        view: The other view.
    """

    pixels1: Float[Tensor, "b n 2"]
    pixels2: Float[Tensor, "b n 2"]
    view: int = 2
    name: ClassVar[str] = "sampson"
    unit: ClassVar[str] = " pixels"
    more: ClassVar[str] = "the matches fit worse"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        return f"the Sampson distance of matches of views 1 and {self.view}"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure. Unknown intrinsics are estimated from the clean output."""
        place = camera(views, clean, self.view)
        matrices = intrinsics_of(views, clean.points[0], clean.confidence[0])
        k1, k2 = matrices[0], matrices[self.view - 1]

        def measure(output: Prediction) -> Tensor:
            parts = (tiled(t, output) for t in (k1, k2, self.pixels1, self.pixels2))
            intrinsics1, intrinsics2, pixels1, pixels2 = parts
            matrix = fundamental(essential(place(output)), intrinsics1, intrinsics2)
            return sampson_distance(matrix, pixels1, pixels2).mean(1)

        return measure


@dataclass(frozen=True)
class TruthDistance:
    """The mean distance of a run's points to the truth, in percent of the mean distance.

    Attributes:
        view: The view of the points; all views by default.
    """

    view: int | None = None
    name: ClassVar[str] = "truth"
    unit: ClassVar[str] = " %"
    more: ClassVar[str] = "the points are farther from the truth"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        whose = "" if self.view is None else f" of view {self.view}"
        return f"the pointmap error{whose}"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure. Raise Prob3rError if the truth is not known."""
        if not views.has_truth:
            raise Prob3rError(
                "No truth is known of these views; give depth, intrinsics and cameras of all of "
                "them, or use another scalar than truth."
            )
        return _distance(views.points, views.valid, self.view)


@dataclass(frozen=True, eq=False)
class OutputDistance:
    """The mean distance of a run's points to another run's, in percent of the mean distance.

    Attributes:
        other: The other run's output.
        view: The view of the points; all views by default.
    """

    other: Prediction
    view: int | None = None
    name: ClassVar[str] = "change"
    unit: ClassVar[str] = " %"
    more: ClassVar[str] = "the points are farther from the other run"

    @property
    def words(self) -> str:
        """What the scalar is, as a phrase."""
        whose = "" if self.view is None else f" of view {self.view}"
        return f"the distance{whose} to another run"

    def __call__(self, views: Views, clean: Prediction) -> Measure:
        """Return the measure."""
        points = tuple(p.detach() for p in self.other.points)
        return _distance(points, [finite(each) for each in points], self.view)


def metrics(scalars: Sequence[Scalar]) -> Callable[..., Mapping[str, Tensor]]:
    """Return scalars as the metrics of a sweep; see `runs.sweep.sweep`."""

    def measured(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
        return {scalar.name: scalar(views, clean)(output) for scalar in scalars}

    return measured


def _distance(points: Sequence[Tensor], valid: Sequence[Tensor], view: int | None) -> Measure:
    """Return the measure of the distance to given pointmaps, each run in its own unit."""
    goal = norm_factor(points, valid)[:, None, None, None]
    chosen = range(len(points)) if view is None else [view - 1]

    def measure(output: Prediction) -> Tensor:
        masks = [tiled(mask, output) for mask in valid]
        unit = norm_factor(output.points, masks)[:, None, None, None]
        each = [
            pointmap_error(output.points[i] / unit, tiled(points[i] / goal, output), masks[i])
            for i in chosen
        ]
        return 100 * torch.stack(each).mean(0)

    return measure
