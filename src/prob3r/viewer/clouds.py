"""The drawing of a pane: its points and their colours, its cameras, and the target of a click."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from prob3r.errors import Prob3rError
from prob3r.viewer import colours
from prob3r.viewer.display import NO_CAMERAS, NOTHING, THE_TRUTH, Display
from prob3r.viewer.session import Pane

CLICK = 0.015
"""The largest distance of a click's ray from a point, as a share of the point's distance."""


class Scale(NamedTuple):
    """A colour ramp, its smallest and largest value, and the words for its meaning."""

    stops: colours.Stops
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Drawing:
    """A pane with its display, ready to be drawn at any position.

    Attributes:
        pane: The pane to draw.
        display: How it is drawn.
        masks: Which pixels of each view are drawn.
        scale: The scale of colours that show numbers; None for other colours.
    """

    pane: Pane
    display: Display
    masks: tuple[Bool[np.ndarray, "_h _w"], ...]
    scale: Scale | None

    @classmethod
    def of(cls, pane: Pane, display: Display) -> "Drawing":
        """Return the drawing of a pane."""
        run = pane.run
        every = np.concatenate([c.ravel() for c in run.confidence])
        least = np.percentile(every, display.hidden)
        masks = tuple(
            (confidence >= least) & np.isfinite(points).all((0, 3)) & display.shows(view)
            for view, (confidence, points) in enumerate(
                zip(run.confidence, run.points, strict=True), 1
            )
        )
        return cls(pane, display, masks, _scale(pane, display))

    def points(self, position: float) -> tuple[Float[np.ndarray, "n 3"], ...]:
        """Return the drawn points of all views, in camera 1's frame."""
        return tuple(p[m] for p, m in zip(self.maps(position), self.masks, strict=True))

    def maps(self, position: float) -> tuple[Float[np.ndarray, "_h _w 3"], ...]:
        """Return all pointmaps; those of views that do not move stay in their final state."""
        moving, run = self.pane.run.at(position), self.pane.run
        return tuple(
            points if self.display.moves(view) else run.points[view - 1][-1]
            for view, points in enumerate(moving, 1)
        )

    def poses(self, position: float) -> Float[np.ndarray, "v 4 4"]:
        """Return the poses of the cameras; the camera of a view that does not move stays too."""
        run, by_head = self.pane.run, self.display.by_head
        poses = run.cameras(position, by_head).copy()
        for view in range(1, len(poses) + 1):
            if not self.display.moves(view):
                poses[view - 1] = run.path(by_head)[-1, view - 1]
        return poses

    @property
    def repaints(self) -> bool:
        """Whether colours change as the points move."""
        return self.display.colour in (colours.ERROR, colours.DISPLACEMENT)

    def paint(self, position: float) -> tuple[UInt8[np.ndarray, "n 3"], ...]:
        """Return the colours of the drawn points of all views."""
        return tuple(self._paint(v, position)[m] for v, m in enumerate(self.masks))

    def ghost(self) -> Float[np.ndarray, "n 3"] | None:
        """Return the grey points that are shown for comparison; None if there are none."""
        if self.display.ghost == NOTHING:
            return None
        maps: Sequence[np.ndarray] | None = self.pane.experiment.truth
        if self.display.ghost != THE_TRUTH:
            clean = self.pane.experiment.clean
            maps = [points[-1] for points in clean.points]
        if maps is None:
            return None
        points = np.concatenate([p[m] for p, m in zip(maps, self.masks, strict=True)])
        return points[np.isfinite(points).all(-1)]

    def _paint(self, view: int, position: float) -> UInt8[np.ndarray, "h w 3"]:
        stride = self.pane.experiment.stride
        if self.display.colour == colours.PHOTOGRAPH:
            return self.pane.experiment.images[view][::stride, ::stride]
        if self.display.colour == colours.VIEW:
            shape = (*self.masks[view].shape, 1)
            return np.tile(np.array(colours.of_view(view + 1), np.uint8), shape)
        assert self.scale is not None
        _, low, high, _ = self.scale
        values = self.pane.run.confidence[view]
        if self.display.colour in colours.DECIDES:
            values = _effects(self.pane, self.display)[1][view]
        if self.repaints:
            others = _counterpart(self.pane, self.display, position)[view]
            values = colours.distances(self.maps(position)[view], others)
        return colours.ramp((values - low) / (high - low), self.scale.stops)


def _counterpart(
    pane: Pane, display: Display, position: float
) -> Sequence[Float[np.ndarray, "h w 3"]]:
    """Return the points to compare with: the truth, or the points without the displacement."""
    if display.colour == colours.ERROR and pane.experiment.truth is not None:
        return pane.experiment.truth
    if pane.before is not None:
        return pane.before.at(position)
    return [points[-1] for points in pane.run.points]


def _effects(pane: Pane, display: Display) -> tuple[Scale, Sequence[Float[np.ndarray, "h w"]]]:
    """Return the effects of all patches on a camera in the clean run, and their scale.

    All effects are NaN if the camera is not found, which can happen for a compared model.
    """
    camera, of = display.decided, colours.DECIDES[display.colour]
    try:
        found, maps = pane.experiment.influence(camera, of)
    except Prob3rError:
        nothing = [np.full_like(c, np.nan) for c in pane.run.confidence]
        return Scale(colours.SIGNED, -1.0, 1.0, f"camera {camera} is not found"), nothing
    most = max(float(np.nanmax(np.abs(effects))) for effects in maps) or 1.0
    unit = found.unit.strip().replace("°", "degrees")
    words = (
        f"effect on the {of} of camera {camera} of removing each patch, {unit}, to first order; "
        f"+ means: {found.more}"
    )
    return Scale(colours.SIGNED, -most, most, words), maps


def _scale(pane: Pane, display: Display) -> Scale | None:
    """Return one scale for the whole timeline, so that colours can be compared along it."""
    if display.colour == colours.CONFIDENCE:
        every = np.concatenate([c.ravel() for c in pane.run.confidence])
        low = min(1.0, float(np.nanmin(every)))  # some models predict a share, from 0 to 1
        return Scale(colours.LEVELS, low, max(colours.highest(every), low + 0.01), "confidence")
    if display.colour in colours.DECIDES:
        return _effects(pane, display)[0]
    if display.colour not in (colours.ERROR, colours.DISPLACEMENT):
        return None
    error = display.colour == colours.ERROR
    # Points start far from their final places; an ablation is judged by its final displacement.
    step = 0 if error or pane.before is None else len(pane.run.steps) - 1
    others = _counterpart(pane, display, float(step))
    values = [
        colours.distances(points[step], other).ravel()
        for points, other in zip(pane.run.points, others, strict=True)
    ]
    whence = "the truth" if error else "the final state" if pane.before is None else "before"
    high = colours.highest(np.concatenate(values))
    return Scale(colours.HEAT, 0.0, high, f"distance from {whence}, in mean distances")


class Frustum(NamedTuple):
    """The frustum of a camera, with its photograph.

    Attributes:
        fov: Vertical field of view, in radians.
        aspect: Width over height.
        pose: From the camera to camera 1's frame.
        image: Its photograph.
    """

    fov: float
    aspect: float
    pose: Float[np.ndarray, "4 4"]
    image: UInt8[np.ndarray, "h w 3"]


def cameras(drawing: Drawing, position: float) -> dict[int, Frustum]:
    """Return the frustums of the drawn cameras of a pane, by view."""
    if drawing.display.cameras == NO_CAMERAS:
        return {}
    experiment, poses = drawing.pane.experiment, drawing.poses(position)
    found = {}
    every = zip(experiment.images, experiment.focal, poses, strict=True)
    for view, (image, focal, pose) in enumerate(every, 1):
        height, width = image.shape[:2]
        fov = 2 * atan(height / 2 / focal[1])
        if drawing.display.shows(view):
            found[view] = Frustum(fov, width / focal[0] * focal[1] / height, pose, image)
    return found


def path_lines(drawing: Drawing) -> dict[int, Float[np.ndarray, "n 2 3"]]:
    """Return the path of every camera's centre along the timeline, as line segments, by view."""
    centres = drawing.pane.run.path(drawing.display.by_head)[:, :, :3, 3]
    return {
        view: np.stack([centres[:-1, view - 1], centres[1:, view - 1]], axis=1)
        for view in range(2, centres.shape[1] + 1)
        if drawing.display.shows(view) and len(centres) > 1
    }


class Box(NamedTuple):
    """The region to look at: a box around most points and camera 1, in camera 1's frame."""

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    @classmethod
    def of(cls, panes: Sequence[Pane]) -> "Box":
        """Return a box around most final points and all final cameras of all panes."""
        finals = [points[-1].reshape(-1, 3) for pane in panes for points in pane.run.points]
        every = np.concatenate([p[np.isfinite(p).all(-1)] for p in finals])
        if not len(every):
            return cls(-np.ones(3), np.ones(3))
        low, high = np.percentile(every, (3, 92), axis=0)
        centres = np.concatenate([pane.run.poses[-1, :, :3, 3] for pane in panes])
        reach = high - low
        near = centres[(np.abs(centres - (low + high) / 2) < 2 * reach + 1e-6).all(-1)]
        around = np.concatenate([near, np.zeros((1, 3))])
        return cls(np.minimum(low, around.min(0)), np.maximum(high, around.max(0)))

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        """The centre of the box."""
        middle: np.ndarray = (self.low + self.high) / 2
        return middle

    @property
    def radius(self) -> float:
        """Half the diagonal of the box; 1 if that is 0."""
        return float(np.linalg.norm(self.high - self.low)) / 2 or 1.0

    @property
    def width(self) -> float:
        """The distance between two panes."""
        return 1.4 * max(float(self.high[0] - self.low[0]), 0.8 * self.radius)


class Click(NamedTuple):
    """The target of a click: a pixel of a view, in the full image, and its distance."""

    view: int
    row: int
    column: int
    distance: float


def pick(
    drawing: Drawing,
    position: float,
    origin: Float[np.ndarray, "3"],
    direction: Float[np.ndarray, "3"],
    depth: float,
) -> Click | None:
    """Return what a ray hits first: a point, or a photograph in a frustum; None for neither.

    Args:
        drawing: What is drawn.
        position: The position on the timeline.
        origin: Start of the ray, in the pane's frame.
        direction: Direction of the ray, of unit length.
        depth: Distance of a photograph from its camera.
    """
    found = []
    stride = drawing.pane.experiment.stride
    for view, (points, mask) in enumerate(zip(drawing.maps(position), drawing.masks, strict=True)):
        pixels = np.argwhere(mask)
        away = points[mask] - origin
        along = away @ direction
        beside = np.linalg.norm(away - along[:, None] * direction, axis=-1)
        near = np.flatnonzero((along > 0) & (beside < CLICK * along))
        if len(near):
            best = near[np.argmin(along[near])]
            row, column = pixels[best] * stride
            found.append(Click(view + 1, int(row), int(column), float(along[best])))
    found += [
        click
        for view, frustum in cameras(drawing, position).items()
        if (click := _photograph(view, frustum, origin, direction, depth))
    ]
    return min(found, key=lambda click: click.distance, default=None)


def _photograph(
    view: int, frustum: Frustum, origin: np.ndarray, direction: np.ndarray, depth: float
) -> Click | None:
    """Return which pixel of a frustum's photograph a ray hits."""
    rotation, centre = frustum.pose[:3, :3], frustum.pose[:3, 3]
    start, way = rotation.T @ (origin - centre), rotation.T @ direction
    if abs(way[2]) < 1e-9:
        return None
    along = float((depth - start[2]) / way[2])
    height, width = frustum.image.shape[:2]
    half = depth * np.tan(frustum.fov / 2)
    x, y = (start + along * way)[:2] / (half * frustum.aspect, half)
    if along <= 0 or max(abs(x), abs(y)) >= 1:
        return None
    return Click(view, int((y + 1) / 2 * height), int((x + 1) / 2 * width), along)
