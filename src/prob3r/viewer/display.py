"""How the points of a session are shown."""

from dataclasses import dataclass

from prob3r.errors import Prob3rError
from prob3r.viewer import colours

NOTHING, FINAL_STATE, THE_TRUTH = "nothing", "the final state", "the truth"
GHOSTS = (NOTHING, FINAL_STATE, THE_TRUTH)
COLOURS = (
    colours.PHOTOGRAPH,
    colours.VIEW,
    colours.CONFIDENCE,
    colours.ERROR,
    colours.DISPLACEMENT,
    *colours.DECIDES,
)
NO_CAMERAS, OF_POINTS, OF_HEAD = "none", "as the pointmaps state them", "as the camera head says"
CAMERAS = (OF_POINTS, OF_HEAD, NO_CAMERAS)
ALL = 0
"""All views move along the timeline."""


@dataclass(frozen=True)
class Display:
    """How the points are shown.

    Attributes:
        colour: One of `COLOURS`.
        size: Of a point, as a share of the space between neighbours at the mean distance.
        hidden: The share of the points that is hidden, the least sure ones, in percent.
        views: Which views are shown; None for all.
        moving: Which view follows the timeline, the others in their final state; `ALL` for all.
        ghost: One of `GHOSTS`: what is shown in grey beside the points.
        cameras: One of `CAMERAS`.
        paths: Whether the way of every camera along the timeline is shown as a line.
        decided: The view whose camera is meant by colours that say what decides a camera.
    """

    colour: str = colours.PHOTOGRAPH
    size: float = 1.0
    hidden: int = 5
    views: tuple[int, ...] | None = None
    moving: int = ALL
    ghost: str = NOTHING
    cameras: str = OF_POINTS
    paths: bool = False
    decided: int = 2

    def __post_init__(self) -> None:
        for name, choices in (("colour", COLOURS), ("ghost", GHOSTS), ("cameras", CAMERAS)):
            if getattr(self, name) not in choices:
                raise Prob3rError(f"{name} must be one of {', '.join(choices)}.")
        if not 0.1 <= self.size <= 5 or not 0 <= self.hidden <= 95:
            raise Prob3rError("The size goes from 0.1 to 5, and what is hidden from 0 to 95.")

    def shows(self, view: int) -> bool:
        """Return whether a view is shown."""
        return self.views is None or view in self.views

    def moves(self, view: int) -> bool:
        """Return whether a view follows the timeline."""
        return self.moving in (ALL, view)

    @property
    def by_head(self) -> bool:
        """Whether cameras are shown as the camera head says."""
        return self.cameras == OF_HEAD

    @property
    def needs_truth(self) -> bool:
        """Whether it shows something of the truth."""
        return self.colour == colours.ERROR or self.ghost == THE_TRUTH
