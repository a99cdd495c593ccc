import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.models.protocol import Stack, trunk
from prob3r.rooms import Rooms
from prob3r.runs.edits import Skip
from prob3r.runs.trace import trace
from prob3r.studies.frame_attention import (
    FIRST,
    LAST,
    RANDOM,
    FrameAttention,
    Restricted,
    early,
    meeting,
    restrictions,
)
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from tests.models.examples import EXAMPLES

DEPTH = 8


def made(first: float, last: float, random: float, clean: float = 0.8) -> list[Finding]:
    """Forty scenes whose errors grow with every restricted block, in any order, and some noise."""
    draw = np.random.default_rng(0)
    rows = []
    for choice, each in ((FIRST, first), (LAST, last), (RANDOM, random)):
        for index in range(3 if choice == RANDOM else 1):
            for blocks in range(1, DEPTH + 1):
                for pair in range(40):
                    noise = 0.001 * draw.standard_normal()
                    loss = each * blocks + noise
                    found = {"stated auc@30": (clean, -loss), "pointmap_error": (1.0, loss)}
                    for metric, (without, change) in found.items():
                        rows.append((choice, blocks, index, pair, metric, without, change))
    columns = ["choice", "blocks", "draw", "pair", "metric", "clean", "value"]
    mixed = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)
    return FrameAttention().findings(mixed)


def test_early_blocks_that_lose_nothing_where_others_do_support_it() -> None:
    cameras, points = made(0.001, 0.05, 0.02)
    assert (cameras.verdict, points.verdict) == ("supported", "supported")
    assert cameras.effect == pytest.approx(0.003, abs=0.001)
    assert points.effect == pytest.approx(np.log(1.003), abs=0.001)
    assert "the first 3 of 8 blocks" in cameras.unit
    assert "last 3 lose +0.150" in cameras.control
    assert (cameras.claim, cameras.pairs) == ("N1", 40)


def test_early_blocks_that_lose_much_or_more_than_others_refute_it() -> None:
    assert [f.verdict for f in made(0.02, 0.05, 0.05)] == ["not supported"] * 2
    assert [f.verdict for f in made(0.001, 0.0, 0.01)] == ["not supported"] * 2


def test_where_no_block_loses_anything_it_stays_open() -> None:
    assert [f.verdict for f in made(0.0, 0.0, 0.0)] == ["mixed"] * 2


def test_early_is_three_eighths_as_in_the_paper() -> None:
    assert [early(depth) for depth in (24, 8, 2, 1)] == [9, 3, 1, 1]


def test_every_number_of_blocks_is_tried_or_about_a_dozen() -> None:
    stack = Stack("dec", 8, 1, (("self_attn", "mlp", "global_attn"),) * 2 + (("mlp",),))
    assert meeting(stack) == {0: ["dec*.0.global_attn"], 1: ["dec*.1.global_attn"]}
    edits = restrictions(EXAMPLES["vggt"]())
    assert set(edits) == {
        Restricted(choice, size, draw)
        for choice, draws in ((FIRST, 1), (LAST, 1), (RANDOM, 3))
        for size in (1, 2)
        for draw in range(draws)
    }
    assert [e.site for e in edits[Restricted(LAST, 1)]] == ["dec*.1.global_attn"]
    deep = EXAMPLES["vggt"]()
    object.__setattr__(trunk(deep), "sublayers", trunk(deep).sublayers * 12)
    sizes = {variant.blocks for variant in restrictions(deep)}
    assert {1, 9, 24} <= sizes
    assert len(sizes) <= 14


@pytest.mark.parametrize("name", ["vggt", "pi3", "depth-anything-3", "dust3r", "mast3r"])
def test_restricted_everywhere_a_view_knows_nothing_of_the_others(name: str) -> None:
    """Other photographs of the other views change nothing of it, but do without the edits."""
    model = EXAMPLES[name]()
    scenes = Rooms("test", model.config.image_size, compile=False).batch([0, 1])
    mixed = scenes.with_views(view1=scenes.view1.map(lambda t: t.flip(0)))
    last = trunk(model).ends(2)[-1]
    everywhere = restrictions(model)[Restricted(FIRST, len(meeting(trunk(model))))]
    for edits, same in ((everywhere, True), ((), False)):
        one, other = (
            torch.Tensor(trace(model, shown, str(last), edits)[str(last)])
            for shown in (scenes, mixed)
        )
        assert torch.allclose(one, other, atol=1e-5) == same


def test_cross_attention_restricted_to_the_own_view_adds_nothing() -> None:
    model = EXAMPLES["dust3r"]()
    scenes = Rooms("test", (28, 28), compile=False).batch([0])
    restricted = trace(model, scenes, edits=restrictions(model)[Restricted(FIRST, 1)]).output
    skipped = trace(model, scenes, edits=[Skip("dec*.0.cross_attn")]).output
    assert restricted is not None
    assert skipped is not None
    torch.testing.assert_close(restricted.points, skipped.points)


@pytest.mark.parametrize("name", ["vggt", "mast3r"])
def test_the_study_runs_and_its_figure_has_units(name: str) -> None:
    model, study = EXAMPLES[name](), FrameAttention()
    study.choose_views(model)
    scenes = Rooms("test", model.config.image_size, compile=False, views=study.views).batch([0, 1])
    table = study.measure(ModelUnderTest(model, "m"), scenes)
    assert set(table.pair) == {0, 1}
    assert [finding.claim for finding in study.findings(table)] == ["N1", "N1"]
    drawn = study.figures(table)["losses"]
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
    assert len(drawn.axes) == (4 if name == "vggt" else 3)


def test_a_model_without_pointmaps_is_told_so() -> None:
    study, model = FrameAttention(), EXAMPLES["croco"]()
    study.choose_views(model)
    with pytest.raises(LackingError, match="needs pointmaps, and m predicts none"):
        study.check(ModelUnderTest(model, "m"))
