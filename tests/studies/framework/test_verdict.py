import pytest
from hypothesis import given
from hypothesis import strategies as st

from prob3r.geometry import Interval
from prob3r.studies.framework.verdict import (
    NOT_MEASURABLE,
    decide,
    is_above_zero,
    is_below_zero,
    not_measurable,
)


@pytest.mark.parametrize(
    ("supported", "refuted", "verdict"),
    [
        (True, False, "supported"),
        (True, True, "supported"),
        (False, True, "not supported"),
        (False, False, "mixed"),
    ],
)
def test_a_rule_is_mixed_where_neither_condition_holds(
    supported: bool, refuted: bool, verdict: str
) -> None:
    assert decide(supported, refuted) == verdict


def test_an_interval_that_holds_zero_decides_nothing() -> None:
    assert is_above_zero(Interval(1.0, 0.0, 2.0)) == "mixed"
    assert is_above_zero(Interval(1.0, 0.5, 2.0)) == "supported"
    assert is_above_zero(Interval(-1.0, -2.0, -0.5)) == "not supported"
    assert is_above_zero(NOT_MEASURABLE) == is_below_zero(NOT_MEASURABLE) == "mixed"


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_below_zero_is_above_zero_of_the_negated_effect(
    value: float, under: float, over: float
) -> None:
    found = Interval(value, value - under, value + over)
    assert is_below_zero(found) == is_above_zero(Interval(-value, -found.high, -found.low))


def test_a_finding_on_nothing_is_mixed_and_says_why() -> None:
    found = not_measurable("N0", "All is well", "m", "there is nothing", 3)
    assert (found.claim, found.verdict, found.pairs) == ("N0", "mixed", 3)
    assert found.control == "there is nothing"
    assert all(number != number for number in (found.effect, found.low, found.high))
