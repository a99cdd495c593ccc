from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prob3r.viewer import tables
from prob3r.viewer.session import Session
from prob3r.viewer.timeline import GLIDE_SECONDS, TimelinePosition, curves, marks, number


@given(st.lists(st.tuples(st.integers(-3, 25), st.integers(1, 20)), max_size=8))
def test_the_position_stays_on_the_line_and_arrives(wishes: list[tuple[int, int]]) -> None:
    timeline = TimelinePosition(19, 19.0, 19)
    for target, frames in wishes:
        timeline.send(target)
        for _ in range(frames):
            before = timeline.position
            after = timeline.advance(0.04)
            assert 0 <= after <= 19
            assert abs(timeline.target - after) <= abs(timeline.target - before)
    timeline.advance(GLIDE_SECONDS + 0.01)
    assert timeline.position == timeline.target
    assert not timeline.moving


def test_a_neighbour_takes_as_long_as_the_whole_line() -> None:
    for target in (18, 0):
        timeline = TimelinePosition(19, 19.0, 19)
        timeline.send(target)
        assert timeline.advance(GLIDE_SECONDS / 2) == pytest.approx((19 + target) / 2)


def test_blocks_are_marked_where_they_begin(session: Session) -> None:
    assert marks(session.experiment.steps) == [(0, "in"), (1, "0"), (4, "1"), (7, "2"), (10, "out")]


def test_curves_are_drawings_that_name_the_current_number(session: Session) -> None:
    steps, clean = session.experiment.steps, session.run.curves[2]
    html = curves(
        steps, 4.0, [("<now>", "#123456", clean), ("before", "#abcdef", clean)], "the truth"
    )
    drawing = ElementTree.fromstring(html)
    labels = [svg.get("aria-label") for svg in drawing.iter("svg")]
    angle = clean["rotation_error"][4]
    assert labels[0] == f"Rotation of camera 2, error against the truth: {angle:.1f}° here"
    assert len(labels) == 3
    assert len(list(drawing.iter("path"))) == 6
    assert [span.tail or span.text for span in drawing.iter("span")]


def test_curves_of_several_views_say_their_median(session: Session) -> None:
    clean = session.run.curves[2]
    twice = {name: 2 * values for name, values in clean.items()}
    more = {name: 4 * values for name, values in clean.items()}
    lines = [("view 2", "#123", twice), ("view 3", "#456", clean), ("view 4", "#789", more)]
    drawing = ElementTree.fromstring(curves(session.run.steps, 4.0, lines, "x", "the views"))
    first = next(drawing.iter("svg"))
    angle = 2 * clean["rotation_error"][4]
    label = f"Rotation of the cameras, error against x: median {angle:.1f}° here"
    assert first.get("aria-label") == label
    assert len(first.findall("path")) == 3


def test_a_curve_without_numbers_is_left_out_and_gaps_stay_gaps(session: Session) -> None:
    clean = {name: values.copy() for name, values in session.run.curves[2].items()}
    clean["translation_error"][:] = np.nan
    clean["rotation_error"][3] = np.nan
    drawing = ElementTree.fromstring(curves(session.run.steps, 3.0, [("a", "#000", clean)], "x"))
    first, *others = drawing.iter("svg")
    assert len(others) == 1
    assert first.find("path").get("d").count("M") == 2
    assert first.find("circle") is None
    assert number(float("nan"), "°") == "none"


def test_names_cannot_become_markup(session: Session) -> None:
    session.others["<img src=x onerror=alert(1)>"] = session.others["other probes"]
    session.compare("<img src=x onerror=alert(1)>")
    for html in (tables.where(session), tables.numbers(session), tables.code("<img src=x>")):
        assert "<img" not in html
        assert "&lt;img" in html
