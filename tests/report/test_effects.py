import math

import pytest
import torch

from prob3r.models import DUSt3R
from prob3r.report import Explanation, explain
from prob3r.runs.edits import HeadAblation
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.report.stand_ins import random_probes


def test_an_effect_is_the_error_without_the_head_less_the_error_with_it(
    bare_model: DUSt3R, room: Pair, swept: Explanation
) -> None:
    plain = trace(bare_model, room).output
    cut = trace(bare_model, room, edits=[HeadAblation("dec2.1.cross_attn", heads=[1])]).output
    assert plain is not None
    assert cut is not None
    before, after = room.errors_of(plain.points), room.errors_of(cut.points)
    (row,) = (h for h in swept.measurements.heads if (h.block, h.head) == (1, 1))
    expected = after.rotation_error - before.rotation_error
    assert row.rotation_effect == pytest.approx(float(expected), abs=1e-3)
    expected = after.shape_error - before.shape_error
    assert row.shape_effect == pytest.approx(float(expected), abs=1e-5)


def test_every_head_has_an_effect_and_their_mean_has_none(swept: Explanation) -> None:
    heads = swept.measurements.heads
    assert all(math.isfinite(h.rotation_effect) == (h.head is not None) for h in heads)
    assert any("switched off one at a time" in s.text for s in swept.happened)
    row = swept.to_json()["heads"][0]
    assert isinstance(row["shape_effect"], float)


def test_effects_without_the_truth_are_against_the_output(bare_model: DUSt3R, room: Pair) -> None:
    views = (type(room.view1)(v.image) for v in (room.view1, room.view2))
    bare = explain(
        bare_model, Pair(*views), random_probes(bare_model), model_name="bare", head_effects=True
    )
    effects = torch.tensor([h.shape_effect for h in bare.measurements.heads if h.head is not None])
    assert (effects > 0).all()


def test_none_is_measured_unless_asked_for(guessing: Explanation) -> None:
    assert all(math.isnan(head.rotation_effect) for head in guessing.measurements.heads)
    assert not any("switched off" in sentence.text for sentence in guessing.happened)
