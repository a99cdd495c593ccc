"""What is said of a scene of many views, from numbers that are made up."""

from dataclasses import replace

import pytest

from prob3r.measures.measurements import Measurements
from prob3r.report import Explanation
from prob3r.report.many import trust_in_many, views_words, what_happened_to_many


@pytest.fixture
def many(knowing: Explanation) -> Measurements:
    """View 2 of a pair that is right, as four further views; view 5 is turned and does not fit."""
    m = knowing.measurements
    curves = {1: m.curves[1], **{view: dict(m.curves[2]) for view in range(2, 6)}}
    curves[5]["rotation_error"] = [60.0] * len(m.steps)
    against = {view: m.against[1 if view == 1 else 2] for view in curves}
    finals = dict.fromkeys(range(2, 6), m.final)
    finals[4] = replace(m.final, overlap=0.05)
    relations = replace(m.relations, fit=[0.9, 0.8, 0.85, 0.9, 0.2])
    return replace(m, curves=curves, against=against, finals=finals, relations=relations)


def test_the_view_that_ends_farthest_off_is_named(many: Measurements) -> None:
    text = " ".join(sentence.text for sentence in what_happened_to_many(many))
    assert "View 5 ends farthest off, at 60°" in text
    assert "view 1 sees 5 % to" in text


def test_views_with_trouble_are_named_and_others_are_not(many: Measurements) -> None:
    said = trust_in_many(many)
    warnings = [sentence.text for sentence in said if sentence.tone == "warning"]
    assert any(text.startswith("The rotation of view 5 is wrong") for text in warnings)
    assert any("sees less than 15 % of view 4." in text for text in warnings)
    (least,) = [text for text in warnings if "fits the others least" in text]
    assert least.startswith("View 5 fits the others least: 20 %")
    assert least.endswith("It may not belong to this scene.")


def test_a_scene_without_trouble_says_so(many: Measurements) -> None:
    finals = dict.fromkeys(many.finals, many.final)
    curves = {**many.curves, 5: many.curves[2]}
    relations = replace(many.relations, fit=[0.9] * 5)
    said = trust_in_many(replace(many, finals=finals, curves=curves, relations=relations))
    assert [sentence.tone for sentence in said].count("warning") == 0
    assert said[-1].tone == "good"


def test_views_in_words(many: Measurements) -> None:
    assert views_words(many, [3]) == "view 3"
    assert views_words(many, [2, 3, 5]) == "views 2, 3 and 5"
    assert views_words(many, [2, 3, 4, 5]) == "all views but the first"
