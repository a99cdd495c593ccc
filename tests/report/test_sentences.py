from dataclasses import replace
from math import nan

import pytest

from prob3r.measures.measurements import Measurements
from prob3r.measures.steps import Step
from prob3r.models import random
from prob3r.report import Explanation, explain
from prob3r.report.sentences import effects, settled, trust, what_happened
from prob3r.scenes import Pair
from tests.report.conftest import PAIRS
from tests.report.stand_ins import CONFIG, random_probes


def told(sentences: list) -> str:
    return " ".join(sentence.text for sentence in sentences)


def warnings(m: Measurements) -> str:
    return told([sentence for sentence in trust(m) if sentence.tone == "warning"])


def rotated(m: Measurements, curve: list[float]) -> Measurements:
    """The same numbers with another rotation curve of view 2."""
    return replace(
        m, curves=m.curves | {2: m.curves[2] | {"rotation_error": [float(v) for v in curve]}}
    )


def floats(*values: float) -> list[float]:
    return [float(value) for value in values]


def test_settled_is_the_first_step_of_the_last_stay() -> None:
    assert settled(floats(50, 3, 40, 4.0, 3.5, 3), 2.0) == 3
    assert settled(floats(3, 3, 3), 2.0) == 0
    assert settled(floats(90, 60, 30, 0), 2.0) == 3
    assert settled(floats(90, 34, 33, 30), 2.0) == 2
    assert settled(floats(nan, 20, 1, 0), 2.0) == 2
    assert settled(floats(5, nan), 2.0) is None


def test_effects_are_summed_by_kind_and_end_before_the_output() -> None:
    steps = [
        Step(None, "embed"),
        Step(0, "self_attn"),
        Step(0, "mlp"),
        Step(1, "self_attn"),
        Step(None, "output"),
    ]
    assert effects(floats(10, 7, 8, 3, 0), steps) == {"self_attn": -8, "mlp": 1}
    assert effects(floats(10, nan, 8, 3, 0), steps) == {"self_attn": -5}


def test_a_right_answer_is_called_right(knowing: Explanation) -> None:
    m = knowing.measurements
    assert "in place from the start" in told(what_happened(m))
    assert warnings(m) == ""
    assert "a good pose" in told(trust(m))


def test_the_pose_is_said_to_settle_where_it_does(learning: Explanation) -> None:
    m = rotated(learning.measurements, [80, 60, 50, 40, 30, 4, 4, 4, 4, 4, 3])
    text = told(what_happened(m))
    assert "from 80° off the truth at the decoder's input to 3.0° in the output" in text
    assert "settled from block 1's cross-attention on (site 6 of 10)" in text
    assert "cross-attention moves view 2's rotation error most, by −36.0°" in text
    assert "the largest step down is block 1's cross-attention (−26.0°)" in text


def test_a_pose_that_stays_wrong_is_called_wrong(learning: Explanation) -> None:
    m = rotated(learning.measurements, [80, 79, 80, 78, 79, 80, 81, 80, 79, 80, 76.5])
    assert "hardly improves" in told(what_happened(m))
    assert "76° off" in warnings(m)
    assert "a wrong pose" in warnings(m)


def test_a_late_pose_is_warned_of(learning: Explanation) -> None:
    m = rotated(learning.measurements, [80, 80, 80, 80, 80, 80, 80, 80, 80, 3, 3])
    assert "still moves at block 2's MLP, late" in warnings(m)
    m = rotated(learning.measurements, [80, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    assert "late" not in warnings(m)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_difference": 0.001}, "almost the same"),
        ({"baseline": 0.004}, "almost in one place, 0.4 %"),
        ({"overlap": 0.05}, "view 1 sees only 5 %"),
        ({"unsure": (0.1, 0.8)}, "80 % of the pixels"),
        ({"inliers": 0.4}, "40 % of view 2's final pointmap"),
        ({"field_of_view": 150.0}, "150°"),
        ({"field_of_view": nan}, "behind its own camera"),
        ({"field_of_view": -180.0}, "its focal length is negative"),
        ({"probe_gap": 0.5}, "the curves are rough"),
    ],
)
def test_each_number_out_of_bounds_is_warned_of(
    knowing: Explanation, change: dict, words: str
) -> None:
    m = knowing.measurements
    assert words not in warnings(m)
    assert words in warnings(replace(m, finals={2: replace(m.final, **change)}))


def test_what_else_is_out_of_bounds_is_warned_of(knowing: Explanation) -> None:
    m = knowing.measurements
    lost = [replace(head, cycle_consistency=0.1) for head in m.heads]
    assert "at best 10 %" in warnings(replace(m, heads=lost))
    none = replace(m, finals={2: replace(m.final, inliers=0.0, pose_found=False)})
    assert "not what any one camera could see" in told(what_happened(none))


def test_without_truth_nothing_is_said_of_right_and_wrong(guessing: Explanation) -> None:
    text = told(guessing.happened + guessing.trust)
    assert "truth" not in text.replace("No truth is known", "")
    assert "not whether it is right" in text


def test_two_identical_photographs_are_noticed() -> None:
    model = random(CONFIG)
    photograph = PAIRS / "books/view1.jpg"
    pair = Pair.from_images([photograph, photograph], model)
    explanation = explain(model, pair, random_probes(model), model_name="m")
    assert "almost the same" in warnings(explanation.measurements)
