import math
from dataclasses import replace

import pytest

from prob3r.reliability.check import Check
from prob3r.reliability.matchers import SIFT
from prob3r.report import Explanation, explain
from prob3r.report.check import check_sentences
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from tests.report.stand_ins import KnowingModel, KnowingProbes, truth

GOOD = Check(
    view=2,
    matcher="LightGlue",
    matches=200,
    inliers=150,
    agreeing=180,
    distance=1.25,
    near=7.0,
    rotation=1.5,
    direction=4.0,
    intrinsics_known=True,
)
WRONG = replace(GOOD, agreeing=40, distance=31.0, rotation=48.0, direction=90.0)
NONE = replace(
    GOOD, matches=9, inliers=0, agreeing=5, rotation=math.nan, direction=math.nan, distance=2.0
)


def test_matches_that_agree_reassure_in_numbers() -> None:
    matches, pose = check_sentences([GOOD], calibrated=True)
    assert "(LightGlue)" in matches.text
    assert "found 200 matches between the photographs of views 1 and 2" in matches.text
    assert "180 of them (90 %) within 7.0 pixels of each other; the median is 1.2" in matches.text
    assert "150 of these matches agree on one pose" in pose.text
    assert "by 1.5°, and its direction to the camera by 4.0°" in pose.text
    assert (matches.tone, pose.tone) == ("good", "good")


def test_matches_that_do_not_agree_warn() -> None:
    matches, pose = check_sentences([WRONG], calibrated=True)
    assert "40 of them (20 %)" in matches.text
    assert "differs from it by 48.0°" in pose.text
    assert (matches.tone, pose.tone) == ("warning", "warning")


def test_too_few_matches_say_nothing_of_the_output() -> None:
    (only,) = check_sentences([NONE], calibrated=True)
    assert "found 9 matches" in only.text
    assert "neither supports the output nor speaks against it" in only.text
    assert only.tone == "plain"
    (only,) = check_sentences([replace(NONE, matches=0, agreeing=0)], calibrated=True)
    assert "found no matches" in only.text


def test_an_output_without_a_pose_is_told() -> None:
    lost = replace(GOOD, rotation=math.nan, direction=math.nan)
    _, pose = check_sentences([lost], calibrated=True)
    assert "the output has none to compare with it" in pose.text
    assert pose.tone == "warning"


def test_a_focal_length_that_is_the_models_own_is_told() -> None:
    _, pose = check_sentences([replace(GOOD, intrinsics_known=False)], calibrated=True)
    assert "with the focal length of the model's output" in pose.text


def test_without_a_calibration_the_check_stands_alone() -> None:
    *_, last = check_sentences([GOOD], calibrated=False)
    assert "this check is the only evidence" in last.text
    assert check_sentences([], calibrated=False) == []


def test_many_views_are_told_as_a_whole() -> None:
    checks = [
        replace(GOOD, view=2),
        replace(GOOD, view=3, rotation=3.5),
        replace(WRONG, view=4),
        replace(NONE, view=5),
    ]
    matches, poses = check_sentences(checks, calibrated=True)
    assert "found 609" in matches.text
    assert "405 of them (67 %)" in matches.text
    assert "For 3 of 4 views" in poses.text
    assert "by 3.5° in the median, and most for view 4, by 48.0°" in poses.text
    assert poses.tone == "warning"
    _, nothing = check_sentences([replace(NONE, view=view) for view in range(2, 6)], True)
    assert "For no view" in nothing.text


@pytest.fixture(scope="module")
def checked() -> Explanation:
    """A model that knows the truth, on a room with more pixels to match than it sees."""
    small, large = (Rooms("validation", size=(side, side), compile=False)[2] for side in (48, 192))
    views = [
        replace(view, fine=fine.image) for view, fine in zip(small.views, large.views, strict=True)
    ]
    room = Pair(*views, small.names)
    model = KnowingModel(room)
    probes = KnowingProbes(model, truth(room))
    return explain(model, room, probes, model_name="knowing", matcher=SIFT)


def test_an_explanation_holds_the_check(checked: Explanation) -> None:
    (found,) = checked.check
    assert found.matcher == SIFT
    assert found.agreeing > 0.8 * found.matches
    assert found.rotation < 3
    assert checked.to_json()["check"] == [found.to_json()]
    said = " ".join(sentence.text for sentence in checked.trust)
    assert "An independent check (SIFT)" in said
    assert "this check is the only evidence" in said
