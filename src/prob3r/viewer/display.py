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
"""Value of `Display.moving` with which all views follow the timeline."""


@dataclass(frozen=True)
class Display:
    """How the points are shown.

    Attributes:
        colour: One of `COLOURS`.
        size: Size of a point, as a share of the space between neighbours at the mean distance.
        hidden: The share of points that is hidden, those of lowest confidence, in percent.
        views: Which views are shown; None for all.
        moving: The view that follows the timeline, with the others in their final state; `ALL` if
            all views follow it.
        ghost: One of `GHOSTS`: the grey points for comparison.
        cameras: One of `CAMERAS`.
        paths: Whether the path of every camera along the timeline is shown as a line.
        decided: The view whose camera is used by the colours for what decides a camera.

    Raises:
        Prob3rError: A value is not one of its choices, or a size is out of range.
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
            raise Prob3rError("The size must be from 0.1 to 5, and the hidden share from 0 to 95.")

    def shows(self, view: int) -> bool:
        """Return whether a view is shown."""
        return self.views is None or view in self.views

    def moves(self, view: int) -> bool:
        """Return whether a view follows the timeline."""
        return self.moving in (ALL, view)

    @property
    def by_head(self) -> bool:
        """Whether the shown cameras are those of the camera head."""
        return self.cameras == OF_HEAD

    @property
    def needs_truth(self) -> bool:
        """Whether the display uses the truth."""
        return self.colour == colours.ERROR or self.ghost == THE_TRUTH
