import math
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import project, rotation_error, translation_error
from prob3r.models import DUSt3RConfig, random
from prob3r.reliability.classical import (
    ClassicalReconstruction,
    point_error,
    reconstruct,
    right_matches,
    triangulate,
)
from prob3r.reliability.matchers import LIGHTGLUE, is_installed
from prob3r.rooms import Rooms
from prob3r.rooms.larger import enlarged
from prob3r.scenes import Pair, View
from prob3r.scenes.sampling import sample
from prob3r.studies.fixed import FixedCorrespondences, texture
from prob3r.studies.framework.tested import ModelUnderTest

CONFIG = DUSt3RConfig((64, 64), 8, 16, 1, 2, 16, 2, 2)
OVERLAPPING = 2  # a room whose views share most of what they see


@pytest.fixture(scope="module")
def room() -> Pair:
    return Rooms("validation", (192, 192), compile=False)[OVERLAPPING]


def blank(pair: Pair) -> Pair:
    """The same truth, with nothing to be seen."""
    views = (
        View(torch.zeros_like(v.image), v.intrinsics, v.cam_to_world, v.depth, v.valid)
        for v in (pair.view1, pair.view2)
    )
    return Pair(*views, pair.names)


def test_a_pose_is_found_where_views_overlap(room: Pair) -> None:
    found = reconstruct(room)
    assert found.pose2_to_1 is not None
    pose, true = found.pose2_to_1[None].float(), room.view2_to_view1
    assert rotation_error(pose[:, :3, :3], true[:, :3, :3]).item() < 2
    assert translation_error(pose[:, :3, 3], true[:, :3, 3], torch.ones(1)).item() < 4
    assert found.inliers.sum() == len(found.points) >= 15
    assert right_matches(found.pixels1, found.pixels2, room).item() > 0.9


def test_points_are_where_the_scene_is(room: Pair) -> None:
    found = reconstruct(room)
    column, row = found.pixels1[found.inliers].round().long().unbind(1)
    true = room.view1.points[0, row, column].double()
    assert point_error(found.points, true, true.norm(dim=1).mean()).item() < 0.02


def test_blank_views_have_no_pose(room: Pair) -> None:
    found = reconstruct(blank(room))
    assert found.pose2_to_1 is None
    assert len(found.inliers) == len(found.points) == 0
    assert right_matches(found.pixels1, found.pixels2, room).item() == 0


def test_rays_meet_at_the_point(room: Pair) -> None:
    pose = room.view2_to_view1[0].double()
    points = torch.rand(20, 3, dtype=torch.float64) + torch.tensor([0.0, 0.0, 2.0])
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    found = triangulate(points / points[:, 2:], local / local[:, 2:], pose)
    torch.testing.assert_close(found, points, atol=1e-5, rtol=0)


def test_rays_that_miss_meet_half_way() -> None:
    """One ray along z from the origin, one along -x from (5, 1, 3): they pass 1 apart in y."""
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([5.0, 1.0, 3.0])
    found = triangulate(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[-1.0, 0.0, 0.0]]), pose)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 3.0]]))


def test_right_matches_are_near_the_truth(room: Pair) -> None:
    """Pixels of view 2 against their true positions, moved by less and by more than 6 of 192."""
    local = room.view2.points[:, 90:100, 90:100].flatten(1, 2)
    pose = room.view2_to_view1
    first = local @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    assert room.view1.intrinsics is not None
    true = project(first, room.view1.intrinsics)[0]
    y, x = torch.meshgrid(torch.arange(90.0, 100), torch.arange(90.0, 100), indexing="ij")
    pixels2 = torch.stack([x, y], -1).flatten(0, 1)
    moved = true + torch.where(torch.arange(100) < 30, 7.0, 5.0)[:, None] * torch.tensor([1.0, 0])
    none = torch.zeros(100, dtype=torch.bool)
    found = ClassicalReconstruction(moved, pixels2, none, None, torch.zeros(0, 3))
    assert right_matches(found.pixels1, found.pixels2, room).item() == pytest.approx(0.7)


def test_point_errors_know_no_scale() -> None:
    true = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [3.0, 0.0, 4.0]])
    unit = torch.tensor(2.0)
    assert point_error(5 * true, true, unit).item() == pytest.approx(0, abs=1e-6)
    away = true + torch.tensor([[0.0, 0, 0], [0.0, 0, 0], [0.0, 9.0, 0]])
    assert point_error(away, true, unit).item() == pytest.approx(0, abs=1e-6)  # a minority
    turned = true[:, [2, 0, 1]]
    assert point_error(turned, true, unit).item() == pytest.approx(math.sqrt(26) / 2)
    assert point_error(true[:0], true[:0], unit).isnan()


def test_texture_is_the_mean_gradient() -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 127.5 * 3 - 1  # 3 of 255 a pixel
    assert texture(View(ramp)).item() == pytest.approx(3, rel=1e-4)
    assert texture(View(torch.zeros(1, 3, 8, 8))).item() == 0


def test_larger_views_show_the_same(room: Pair) -> None:
    small = Rooms("validation", (48, 48), compile=False)
    pair, large = small[OVERLAPPING], enlarged(small)[OVERLAPPING]
    assert small.size == (48, 48)
    for view, larger, known in zip(
        (pair.view1, pair.view2),
        (large.view1, large.view2),
        (room.view1, room.view2),
        strict=True,
    ):
        assert torch.equal(larger.image, known.image)
        assert torch.equal(larger.cam_to_world, view.cam_to_world)
        middles = larger.depth[:, 1::4, 1::4]
        assert ((middles / view.depth - 1).abs() < 0.03).float().mean() > 0.8


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Three pairs, as a model of random weights and the pipeline see them."""
    rooms = Rooms("validation", (64, 64), compile=False)
    study, tested = FixedCorrespondences(), ModelUnderTest(random(CONFIG, seed=1), "m")
    study.prepare(tested, sample(rooms, 3))
    pair = rooms.batch([0, 1, OVERLAPPING])
    with torch.no_grad():
        return study.measure(tested, pair)


def test_everything_is_measured_for_every_pair(measured: pd.DataFrame) -> None:
    angles = measured[measured.metric == "rotation_error"]
    counts = angles.groupby("source").pair.nunique().to_dict()
    sources = ["model", "aligned", "shuffled", "classical", "classical, 4x"]
    sources += [LIGHTGLUE, f"{LIGHTGLUE}, 4x"] * is_installed(LIGHTGLUE)
    assert counts == dict.fromkeys(sources, 3)
    assert angles.value.between(0, 180).all()
    assert {"matches", "inliers", "right matches", "found", "point_error"} <= set(measured.metric)
    assert measured.groupby("pair")[["overlap", "texture"]].nunique().eq(1).all(axis=None)


def test_larger_views_help_keypoints(measured: pd.DataFrame) -> None:
    matches = measured[measured.metric == "matches"]
    few, many = (matches[matches.source == s].value for s in ("classical", "classical, 4x"))
    assert (many.to_numpy() > few.to_numpy()).all()
    last = measured[(measured.pair == 2) & (measured.metric == "rotation_error")]
    assert last[last.source == "classical, 4x"].value.item() < 3


def test_failures_count_as_failures() -> None:
    study = FixedCorrespondences()
    pair = blank(Rooms("validation", (64, 64), compile=False).batch([0, OVERLAPPING]))
    with torch.no_grad():
        table = study.measure(ModelUnderTest(random(CONFIG, seed=1), "m"), pair)
    by_metric = table[table.source == "classical"].groupby("metric").value
    assert by_metric.apply(list).to_dict() == {
        "rotation_error": [180, 180],
        "translation_error": [180, 180],
        "found": [0, 0],
        "matches": [0, 0],
        "inliers": [0, 0],
        "right matches": [0, 0],
        "point_error": [math.inf, math.inf],
    }


def test_without_opencv_one_sentence_says_what_to_do(
    room: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(Prob3rError, match=r"pip install prob3r\[studies\]"):
        reconstruct(room)


Rule = Callable[[int], float]


def made(model: Rule, larger: Rule, smaller: Rule = lambda i: 180.0) -> pd.DataFrame:
    """120 pairs of rising overlap and texture, with errors by their place in that order.

    The lowest 40 have an overlap under 0.3, the highest 40 one over 0.5.
    """
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 120))
    rows = []
    rules = {"model": model, "classical": smaller, "classical, 4x": larger}
    for row, (source, rule) in enumerate(rules.items()):
        for i in range(120):
            error = rule(i)
            wrong = error == 180
            values = {
                "rotation_error": error if wrong else error + noise[row, i],
                "translation_error": error,
                "found": float(not wrong),
                "point_error": math.inf if wrong else 0.1,
            }
            about = (0.2 + 0.4 * i / 119 + (i >= 80) * 0.1, float(i), i >= 80, i < 40)
            rows.extend((i, source, metric, value, *about) for metric, value in values.items())
    names = ["pair", "source", "metric", "value", "overlap", "texture", "easy", "hard"]
    return pd.DataFrame(rows, columns=names)


def fails_low(i: int) -> float:
    """Exact, but on most of the lowest third, where it finds nothing."""
    return 180.0 if i < 40 and i % 4 else 1.0


@pytest.mark.parametrize(
    ("model", "larger", "verdict"),
    [
        (lambda i: 5.0, fails_low, "supported"),
        (lambda i: 5.0, lambda i: 180.0 if i % 4 else 1.0, "mixed"),  # fails everywhere alike
        (fails_low, fails_low, "not supported"),
        (lambda i: 20.0, fails_low, "not supported"),
        (lambda i: 20.0 if i < 40 and i % 3 else 5.0, lambda i: 180.0 if i % 4 else 1.0, "mixed"),
    ],
)
def test_the_verdict_on_low_strata_follows_the_rule(
    model: Rule, larger: Rule, verdict: str
) -> None:
    overlap, texture_, _ = FixedCorrespondences().findings(made(model, larger))
    assert (overlap.verdict, texture_.verdict) == (verdict, verdict)
    assert "under 0.3" in overlap.statement
    assert "under 39.7" in texture_.statement
    assert texture_.pairs == 40


def test_the_effect_is_the_gap_in_the_lowest_stratum() -> None:
    _, texture_, _ = FixedCorrespondences().findings(made(lambda i: 5.0, fails_low))
    assert texture_.effect == pytest.approx(0.75)
    assert texture_.low < 0.75 < texture_.high
    assert "classical 0.00 and 0.00" in texture_.control


def test_the_better_resolution_stands_for_the_pipeline() -> None:
    table = made(lambda i: 5.0, lambda i: 180.0, fails_low)
    _, texture_, accurate = FixedCorrespondences().findings(table)
    assert texture_.unit.endswith("model less classical")
    assert accurate.pairs == 90


@pytest.mark.parametrize(
    ("error", "verdict"), [(5.0, "supported"), (0.5, "not supported"), (1.0, "mixed")]
)
def test_accuracy_is_compared_where_a_pose_is_found(error: float, verdict: str) -> None:
    *_, accurate = FixedCorrespondences().findings(made(lambda i: error, fails_low))
    assert accurate.verdict == verdict
    assert accurate.effect == pytest.approx(error - 1, abs=0.02)
    assert accurate.pairs == 90  # ten of the lowest forty


def test_a_pipeline_that_finds_nothing_leaves_accuracy_open() -> None:
    *_, accurate = FixedCorrespondences().findings(made(lambda i: 5.0, lambda i: 180.0))
    assert accurate.verdict == "mixed"
    assert accurate.pairs == 0


def test_the_figure_has_units() -> None:
    (drawn,) = FixedCorrespondences().figures(made(lambda i: 5.0, fails_low)).values()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)
    assert "rotation error (degrees), 40 hard pairs" in [a.get_xlabel() for a in drawn.axes]
