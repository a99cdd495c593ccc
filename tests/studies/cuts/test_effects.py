from typing import NamedTuple

import pytest
import torch

from prob3r.measures.scenes import scene_errors
from prob3r.models import DUSt3R
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from prob3r.studies.cuts.effects import POINTMAP, camera_metric, effect, effects_of
from tests.models.examples import EXAMPLES


class Variant(NamedTuple):
    mode: str
    block: int


@pytest.fixture(scope="module")
def scenes() -> Views:
    return Rooms("test", (28, 28), compile=False, views=3).batch([0, 1])


def test_the_effect_is_the_change_of_the_error_and_its_columns_are_the_variants(
    scenes: Views,
) -> None:
    model = EXAMPLES["vggt"]()
    edits = {
        Variant("zero", block): [HeadAblation(f"dec*.{block}.global_attn")] for block in (0, 1)
    }
    table = effects_of(model, scenes, edits)
    assert list(table.columns[:2]) == ["mode", "block"]
    assert len(table) == 2 * 2 * 8
    clean, cut = trace(model, scenes).output, trace(model, scenes, (), edits["zero", 1]).output
    assert clean is not None
    assert cut is not None
    wanted = scene_errors(cut, scenes)[POINTMAP] - scene_errors(clean, scenes)[POINTMAP]
    found = effect(table, POINTMAP, mode="zero", block=1)
    torch.testing.assert_close(found.float(), wanted, atol=1e-5, rtol=1e-4)


def test_a_scene_that_a_variant_leaves_as_it_is_has_no_row_of_it(scenes: Views) -> None:
    edits = {
        Variant("zero", 0): [HeadAblation("dec*.0.global_attn", scenes=[1])],
        Variant("zero", 1): [HeadAblation("dec*.1.global_attn")],
    }
    table = effects_of(EXAMPLES["vggt"](), scenes, edits)
    assert set(table[table.block == 0].pair) == {1}
    assert set(table[table.block == 1].pair) == {0, 1}


def test_cameras_are_those_that_are_stated_where_a_model_states_them(scenes: Views) -> None:
    edits = {Variant("zero", 0): [HeadAblation("dec*.0.global_attn")]}
    assert camera_metric(effects_of(EXAMPLES["vggt"](), scenes, edits)) == "stated rotation_error"
    model: DUSt3R = EXAMPLES["dust3r"]()  # type: ignore[assignment]
    edits = {Variant("zero", 0): [HeadAblation("dec2.0.cross_attn")]}
    found = effects_of(model, scenes.pair(1, 2), edits)
    assert camera_metric(found) == "points rotation_error"
