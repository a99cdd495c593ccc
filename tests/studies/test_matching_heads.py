import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.geometry import patch_grid, pck
from prob3r.measures.attention import PEAKS
from prob3r.measures.heads import head_pck, matching_sites
from prob3r.models import fingerprint
from prob3r.rooms import Rooms
from prob3r.runs.edits import Means
from prob3r.runs.trace import trace
from prob3r.studies.cuts.effects import POINTMAP
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.matching_heads import MatchingHeads, share_of_loss
from prob3r.studies.matching_heads.cuts import (
    ALL,
    ANY,
    CUTS,
    ENTROPY,
    MATCHING,
    MODES,
    PCK,
    RANDOM,
    TOP,
    RankedHeads,
)
from tests.models.examples import EXAMPLES

SCENES, BLOCKS, HEADS = 40, 5, 4
CAMERA = "points rotation_error"


def made(losses: dict[str, float], mode_of: dict[str, float] | None = None) -> pd.DataFrame:
    """Cuts of given losses of cameras and of points, in each mode times a factor."""
    draw, factors = np.random.default_rng(0), mode_of or {}
    rows = []
    for pair in range(SCENES):
        for block in range(BLOCKS):
            for head in range(HEADS):
                matching = (block, head) == (2, 1)
                value = 0.8 if matching else 0.1
                about = {"block": block, "head": head, "matching": matching, "chance": 0.1}
                rows.append({"pair": pair, "metric": PCK, "value": value, **about})
        for mode in MODES:
            for cut in CUTS:
                for number in range(3 if cut == RANDOM else 1):
                    value = losses[cut] * (factors.get(mode, 1.0) if cut == MATCHING else 1.0)
                    value += 0.3 * draw.standard_normal()
                    about = {"cut": cut, "mode": mode, "heads": 1, "draw": number, "pair": pair}
                    rows += [{**about, "metric": m, "value": value} for m in (CAMERA, POINTMAP)]
        for cut in (TOP, ANY):
            for count in (1, 2, 4):
                about = {"cut": cut, "mode": "mean", "heads": count, "draw": 0, "pair": pair}
                rows += [{**about, "metric": m, "value": count} for m in (CAMERA, POINTMAP)]
    return pd.DataFrame(rows)


def test_what_holds_is_supported() -> None:
    found = MatchingHeads().findings(made({MATCHING: 8, RANDOM: 1, ENTROPY: 2, ALL: 10}))
    assert [f.verdict for f in found] == ["supported", "supported"]
    assert found[0].effect == pytest.approx(0.8, abs=0.03)
    assert "1 of 20 heads" in found[0].statement
    assert "of the cameras" in found[0].statement
    assert "of the points" in found[1].statement


def test_what_random_heads_do_as_well_is_not_supported() -> None:
    found = MatchingHeads().findings(made({MATCHING: 8, RANDOM: 8.5, ENTROPY: 2, ALL: 10}))
    assert {f.verdict for f in found} == {"not supported"}


def test_a_small_share_is_not_supported() -> None:
    found = MatchingHeads().findings(made({MATCHING: 3, RANDOM: 1, ENTROPY: 1, ALL: 10}))
    assert {f.verdict for f in found} == {"not supported"}


def test_modes_that_disagree_and_heads_of_equal_entropy_leave_it_open() -> None:
    losses = {MATCHING: 8.0, RANDOM: 1.0, ENTROPY: 2.0, ALL: 10.0}
    for table in (made(losses, {"resample": 0.3}), made(losses | {ENTROPY: 9.0})):
        assert {f.verdict for f in MatchingHeads().findings(table)} == {"mixed"}
    # The mode `zero` is reported and decides nothing.
    found = MatchingHeads().findings(made(losses, {"zero": 0.0}))
    assert {f.verdict for f in found} == {"supported"}


def test_without_a_total_loss_there_is_no_share() -> None:
    found = MatchingHeads().findings(made({MATCHING: 0, RANDOM: 0, ENTROPY: 0, ALL: 0}))
    assert {f.verdict for f in found} == {"mixed"}
    assert all(np.isnan(f.effect) for f in found)


def test_of_one_scene_nothing_is_resampled_and_it_is_left_open() -> None:
    table = made({MATCHING: 8, RANDOM: 1, ENTROPY: 2, ALL: 10})
    table = table[table["mode"] != "resample"]
    for found in MatchingHeads().findings(table):
        assert (found.verdict, found.effect) == ("mixed", pytest.approx(0.8, abs=0.03))
        assert "no other scene to resample from; PCK@1" in found.control
    cuts = MatchingHeads().figures(table)["cuts"]
    assert [text.get_text() for text in cuts.axes[0].get_xticklabels()] == ["zero", "mean"]


def test_the_share_is_that_of_the_medians() -> None:
    part, whole = torch.tensor([1.0, 2.0, 30.0]), torch.tensor([2.0, 4.0, 5.0])
    assert share_of_loss(part, whole).value == 0.5


def test_controls_are_other_heads_of_equal_number_and_entropy() -> None:
    heads = [(block, head) for block in range(10) for head in range(4)]
    entropy = [1.0, 2.0, *np.linspace(3, 0, 38)]
    known = RankedHeads(heads, entropy, Means({}, "", 1))
    assert known.few == 2
    chosen = known.chosen()
    assert chosen[MATCHING, 0] == heads[:2]
    assert chosen[ALL, 0] == heads
    for draw in range(3):
        assert len(chosen[RANDOM, draw]) == 2
        assert not set(chosen[RANDOM, draw]) & set(heads[:2])
    assert chosen[RANDOM, 0] != chosen[RANDOM, 1]
    spread = dict(zip(heads, entropy, strict=True))
    assert [spread[head] for head in chosen[ENTROPY, 0]] == pytest.approx([1, 2], abs=0.05)
    assert [count for _, count in known.steps()] == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]


def test_the_pck_of_a_head_is_the_mean_over_the_further_views() -> None:
    model, views = EXAMPLES["vggt"](), rooms(4).batch([0, 1])
    wanted = matching_sites(model, 4)
    heads, accuracy, _ = head_pck(
        trace(model, views, wanted, output=False, reductions=PEAKS), model, views
    )
    assert heads == [(0, 0), (0, 1), (1, 0), (1, 1)]
    maps = trace(model, views, ["dec*.1.global_attn.probs"], output=False)
    found = []
    for view in (2, 3, 4):
        record = maps[f"dec{view}.1.global_attn.probs"]
        span = record.tokens.patches(record.shape[2])
        argmax = torch.Tensor(record)[:, 1, span, span].argmax(-1)  # on view 1's patches
        match = views.pair(1, view).patch_matches(14)
        found.append(pck(argmax, match.match, match.visible, patch_grid(28, 28, 14)))
    torch.testing.assert_close(accuracy[:, 3], torch.stack(found).nanmean(0))


@pytest.mark.parametrize(("name", "views"), [("vggt", 3), ("dust3r", 2)])
def test_models_of_many_views_and_of_pairs_are_cut(name: str, views: int) -> None:
    model = EXAMPLES[name]()
    study, tested = MatchingHeads(), ModelUnderTest(model, name)
    study.prepare(tested, rooms(views))
    assert study.known is not None
    assert study.known.means.model == fingerprint(model)
    with torch.no_grad():
        table = study.measure(tested, rooms(views).batch([0, 1]))
    heads = table[table.metric == PCK]
    assert len(heads) == 2 * 4
    assert heads[heads.matching.astype(bool)]["head"].nunique() == 1
    cuts = table[table.metric == POINTMAP]
    sources = set(zip(cuts.cut, cuts["mode"], strict=True))
    assert {(cut, mode) for cut in CUTS for mode in MODES} <= sources
    assert (cuts[cuts.cut == ALL].value.abs() > 0).all()
    assert study.findings(table)


def rooms(views: int):  # type: ignore[no-untyped-def]
    return Rooms("test", (28, 28), compile=False, views=views)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.studies.matching_heads.CHOSEN_ON", 2)


def test_the_figures_have_units() -> None:
    drawn = MatchingHeads().figures(made({MATCHING: 8, RANDOM: 1, ENTROPY: 2, ALL: 10}))
    assert {name: len(figure.axes) for name, figure in drawn.items()} == {"heads": 3, "cuts": 2}
    for figure in drawn.values():
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)
