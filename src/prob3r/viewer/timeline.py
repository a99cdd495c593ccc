"""The timeline: a position between sites that moves smoothly to its target, and the curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import copysign

import numpy as np
from jaxtyping import Float

from prob3r.measures.steps import Step
from prob3r.viewer.run import CURVES, METRICS, title

GLIDE_SECONDS = 0.35
"""Seconds of a move to another site."""
STAY_SECONDS = 0.9
"""Seconds from one site to the next while playing."""

WIDTH, HEIGHT, TOP, GAP = 320, 36, 17, 6
"""Sizes of a curve's drawing, in SVG units: width and height of the plot, text above, gap below."""


@dataclass
class TimelinePosition:
    """A position on the timeline that moves to a target.

    Attributes:
        last: The number of the last step.
        position: The current position; whole numbers are steps.
        target: The step that it moves to.
        speed: Speed in steps per second.
    """

    last: int
    position: float = 0.0
    target: int = 0
    speed: float = 0.0

    def send(self, target: int) -> None:
        """Start to move from the current position to a step."""
        self.target = min(max(target, 0), self.last)
        self.speed = max(1.0, abs(self.target - self.position)) / GLIDE_SECONDS

    def advance(self, seconds: float) -> float:
        """Move for some seconds and return the position."""
        way = self.target - self.position
        stride = self.speed * seconds
        arrived = abs(way) <= stride
        self.position = float(self.target) if arrived else self.position + copysign(stride, way)
        return self.position

    @property
    def moving(self) -> bool:
        """Whether the position has not reached its target."""
        return self.position != self.target


def marks(steps: Sequence[Step]) -> list[tuple[int, str]]:
    """Return the steps to mark on the timeline: the input, where blocks begin, the output."""
    found = [(0, "in")]
    for i, step in enumerate(steps):
        if step.block is not None and step.block != steps[i - 1].block:
            found.append((i, str(step.block)))
    return [*found, (len(steps) - 1, "out")]


def curves(
    steps: Sequence[Step],
    position: float,
    lines: Sequence[tuple[str, str, Mapping[str, Float[np.ndarray, " s"]]]],
    reference: str,
    of: int | str = 2,
) -> str:
    """Return drawings of all curves as SVG, with the current site marked.

    Args:
        steps: The steps of the first line.
        position: The current position among the steps.
        lines: For each run or view its name, the colour of its line, and its curves.
        reference: The reference of the errors, in words.
        of: The number of the view that all lines show, and the value of the first line is written;
            or `the views` if each line is one view, and their median is written.
    """
    drawn = "".join(
        _curve(metric, of, steps, position, known, reference)
        for metric in CURVES
        if (known := [line for line in lines if _has(line[2], metric)])
    )
    return f'<div style="padding:0 10px 4px">{drawn}{_legend(lines)}</div>'


def number(value: float, unit: str) -> str:
    """Return a value of a curve as text."""
    if not np.isfinite(value):
        return "none"
    return f"{value:.1f}{unit}" if unit else f"{value:.3f}"


def _has(curve: Mapping[str, Float[np.ndarray, " s"]], metric: str) -> bool:
    return metric in curve and bool(np.isfinite(curve[metric]).any())


def _curve(
    metric: str,
    of: int | str,
    steps: Sequence[Step],
    position: float,
    lines: Sequence[tuple[str, str, Mapping[str, Float[np.ndarray, " s"]]]],
    reference: str,
) -> str:
    heading, unit = title(metric, of), METRICS[metric][1]
    top = max(float(np.nanmax(np.concatenate([c[metric] for _, _, c in lines]))) * 1.08, 1e-6)
    several, here = isinstance(of, str), [c[metric][round(position)] for _, _, c in lines]
    known = [value for value in here if np.isfinite(value)]
    current = (np.median(known) if known else np.nan) if several else here[0]
    x = _across(position, len(steps))
    paths = "".join(
        _path(curve[metric], top, colour, 2.0 if i == 0 else 1.5)
        for i, (_, colour, curve) in reversed(list(enumerate(lines)))
    )
    dot = ""
    if np.isfinite(current):
        at = _across(round(position), len(steps)), TOP + HEIGHT * (1 - current / top)
        fill = "currentColor" if several else lines[0][1]
        dot = f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5" fill="{fill}"/>'
    blocks = "".join(
        f'<line x1="{_across(i, len(steps)):.1f}" x2="{_across(i, len(steps)):.1f}" y1="{TOP}" '
        f'y2="{TOP + HEIGHT}" stroke="currentColor" stroke-opacity="0.1"/>'
        for i, _ in marks(steps)
    )
    written = ("median " if several else "") + number(float(current), unit)
    label = f"{heading}, error against {reference}: {written} here"
    return (
        f'<svg viewBox="0 0 {WIDTH} {TOP + HEIGHT + GAP}" width="100%" role="img" '
        f'aria-label="{escape(label)}" style="display:block">'
        f'<text x="0" y="11" font-size="11" fill="currentColor" fill-opacity="0.75">'
        f"{heading}</text>"
        f'<text x="{WIDTH}" y="11" font-size="11" font-weight="600" text-anchor="end" '
        f'fill="currentColor">{written}</text>{blocks}'
        f'<line x1="0" x2="{WIDTH}" y1="{TOP + HEIGHT}" y2="{TOP + HEIGHT}" '
        'stroke="currentColor" stroke-opacity="0.3"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 2}" y2="{TOP + HEIGHT}" '
        f'stroke="currentColor" stroke-opacity="0.45"/>{paths}{dot}</svg>'
    )


def _across(position: int | float, count: int) -> float:
    return 4 + (WIDTH - 8) * position / max(count - 1, 1)


def _path(values: Float[np.ndarray, " s"], top: float, colour: str, width: float) -> str:
    """Return an SVG line through the values, with gaps at values that are not finite."""
    parts, pen = [], "M"
    for i, value in enumerate(values):
        if not np.isfinite(value):
            pen = "M"
            continue
        height = TOP + HEIGHT * (1 - value / top)
        parts.append(f"{pen}{_across(i, len(values)):.1f} {height:.1f}")
        pen = "L"
    return f'<path d="{"".join(parts)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _legend(lines: Sequence[tuple[str, str, Mapping[str, Float[np.ndarray, " s"]]]]) -> str:
    if len(lines) == 1:
        return ""
    entries = "".join(
        '<span style="margin-right:12px;white-space:nowrap"><span style="display:inline-block;'
        f'width:14px;height:3px;background:{colour};vertical-align:middle;margin-right:5px"></span>{escape(name)}</span>'
        for name, colour, _ in lines
    )
    return f'<div style="font-size:11px">{entries}</div>'
