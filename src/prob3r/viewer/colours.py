"""Colours of points: what the colours can show, and the ramps for numbers."""

import numpy as np
from jaxtyping import Float, UInt8

PHOTOGRAPH, VIEW, CONFIDENCE = "photograph", "view", "confidence"
ERROR, DISPLACEMENT = "distance to the truth", "displacement"
DECIDES = {"what decides a rotation": "rotation", "what decides a distance": "translation"}
"""The quantity of a camera that patches decide (`measures.influence`), by the colour's name."""

Colours = UInt8[np.ndarray, "*n 3"]
Stops = tuple[tuple[int, int, int], ...]

VIEW_COLOURS = (
    (0, 114, 178),
    (213, 94, 0),
    (106, 61, 154),
    (153, 119, 0),
    (194, 24, 91),
    (0, 121, 140),
    (93, 64, 55),
    (77, 107, 31),
)
"""Colours of the first views, as on the explain page; later views use lighter or darker ones."""
GHOST = (168, 172, 180)
PINS = ((214, 39, 72), (18, 140, 90), (122, 62, 190), (196, 130, 0), (0, 130, 170), (90, 90, 90))

LEVELS: Stops = ((59, 28, 90), (63, 79, 143), (42, 138, 140), (98, 185, 92), (242, 217, 78))
"""From low to high confidence."""
HEAT: Stops = ((45, 11, 79), (125, 29, 109), (207, 68, 70), (249, 157, 35), (251, 243, 160))
"""From low to high attention, error or displacement."""

SIGNED: Stops = ((6, 106, 97), (31, 161, 147), (206, 209, 213), (208, 69, 143), (141, 16, 89))
"""From large negative to large positive effects, with grey for zero."""


def ramp(levels: Float[np.ndarray, "*n"], stops: Stops = HEAT) -> UInt8[np.ndarray, "*n 3"]:
    """Return colours of levels from 0 to 1; NaN becomes grey."""
    places = np.linspace(0, 1, len(stops))
    table = np.array(stops, float)
    channels = [np.interp(levels, places, table[:, c]) for c in range(3)]
    colours = np.stack(channels, axis=-1)
    colours[~np.isfinite(levels)] = GHOST
    return colours.round().astype(np.uint8)


def highest(values: Float[np.ndarray, "*n"]) -> float:
    """Return the 95th percentile of finite values, as the end of a ramp; always above 0."""
    known = values[np.isfinite(values)]
    return max(float(np.percentile(known, 95)), 1e-6) if known.size else 1.0


def distances(
    points: Float[np.ndarray, "*n 3"], others: Float[np.ndarray, "*n 3"]
) -> Float[np.ndarray, "*n"]:
    """Return how far each point is from its counterpart."""
    return np.sqrt(np.square(points - others).sum(-1))


def of_view(view: int) -> tuple[int, int, int]:
    """Return the colour of a view."""
    turn, place = divmod(view - 1, len(VIEW_COLOURS))
    toward, share = ((255, 0.0), (255, 0.5), (0, 0.45))[min(turn, 2)]
    red, green, blue = (round(c + share * (toward - c)) for c in VIEW_COLOURS[place])
    return red, green, blue


def css(colour: tuple[int, int, int]) -> str:
    """Return a colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def gradient(stops: Stops) -> str:
    """Return a ramp as CSS writes it."""
    return f"linear-gradient(to right, {', '.join(map(css, stops))})"
