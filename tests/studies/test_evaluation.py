import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.measures.strata import EASY, HARD, strata
from prob3r.models import CroCoConfig, DUSt3R, DUSt3RConfig, Prediction, fingerprint, random
from prob3r.models.sites import Tap
from prob3r.probes import Lens
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, View
from prob3r.scenes.readers.items import Items
from prob3r.scenes.source import open_pairs
from prob3r.studies.evaluation import evaluate, write_rows
from prob3r.training.probes import bank_for
from tests.held import Held

COLUMNS = ["source", "stratum", "site", "view", "metric", "value", "low", "high", "pairs"]
METRICS = {
    "pointmap_error",
    "rotation_error",
    "translation_error",
    "scale_error",
    "shape_error",
    "pose_part",
    "auc@5",
    "auc@15",
    "auc@30",
}
SOURCES = {"model", "mean_pose", "identity_pose", "shuffled", "random"}
PAIRS = Path(str(files("prob3r.scenes") / "pairs"))
CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)


@pytest.fixture(autouse=True)
def _short_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 64)


class Oracle(DUSt3R):
    """Knows the pairs; where view 1 is not the right one, it leaves view 2 in its own frame."""

    def __init__(self, pair: Pair):
        super().__init__(CONFIG)
        self.pair = pair

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        images1, images2 = images
        points: list[Tensor] = []
        for one, two in zip(images1, images2, strict=True):
            (row,) = (i for i, known in enumerate(self.pair.view2.image) if torch.equal(known, two))
            right = torch.equal(self.pair.view1.image[row], one)
            points.append((self.pair.points[1] if right else self.pair.view2.points)[row])
        rows = [self._row(one) for one in images1]
        both = 7 * self.pair.points[0][rows], 7 * torch.stack(points)
        return Prediction(both, (torch.ones_like(both[0][..., 0]),) * 2)

    def _row(self, image: Tensor) -> int:
        (row,) = (i for i, known in enumerate(self.pair.view1.image) if torch.equal(known, image))
        return row


@pytest.fixture(scope="module")
def held_out() -> Pair:
    return Rooms("test", size=(32, 32), compile=False).batch(range(9))


@pytest.fixture(scope="module")
def table(held_out: Pair) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prob3r.studies.evaluation.MEAN_POSE_PAIRS", 64)
        return evaluate(Oracle(held_out), Held(held_out), 9, batch=4)


def value(
    table: pd.DataFrame, source: str, metric: str, view: int = 2, stratum: str = "all"
) -> float:
    (row,) = rows(table, source=source, metric=metric, view=view, stratum=stratum, site="head")
    return float(row["value"])


def rows(table: pd.DataFrame, **where: object) -> list[dict[str, object]]:
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    return table.to_dict("records")


def test_rows_are_tidy(table: pd.DataFrame) -> None:
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["source", "stratum", "site", "view", "metric"]).any()
    assert set(table.source) == SOURCES
    assert set(table.stratum) == {"all", "easy", "hard"}
    assert set(table.site) == {"head"}
    for source in SOURCES:
        for stratum in ("all", "easy", "hard"):
            of_view1 = rows(table, source=source, stratum=stratum, view=1)
            assert [row["metric"] for row in of_view1] == ["pointmap_error"]
            assert {
                r["metric"] for r in rows(table, source=source, stratum=stratum, view=2)
            } == METRICS


def test_intervals_hold_the_value(table: pd.DataFrame) -> None:
    measured = table[~table.value.isna()]
    assert len(measured) > 60
    assert ((measured.low <= measured.value) & (measured.value <= measured.high)).all()


def test_the_truth_has_no_error(table: pd.DataFrame) -> None:
    for metric in METRICS - {"auc@5", "auc@15", "auc@30"}:
        assert value(table, "model", metric) < 0.05, metric
    assert value(table, "model", "pointmap_error", view=1) < 1e-5
    assert value(table, "model", "auc@5") > 0.98


def test_the_mean_pose_has_the_true_shape(table: pd.DataFrame) -> None:
    assert value(table, "mean_pose", "shape_error") < 1e-3
    assert value(table, "mean_pose", "rotation_error") > 5


def test_the_identity_pose_is_off_by_the_rotation_itself(
    table: pd.DataFrame, held_out: Pair
) -> None:
    rotation = rotation_angle(held_out.view2_to_view1[:, :3, :3])
    off = value(table, "identity_pose", "rotation_error")
    assert off == pytest.approx(rotation.median().item(), abs=0.1)
    assert value(table, "identity_pose", "translation_error") == 180
    assert value(table, "identity_pose", "shape_error") < 1e-3


def test_the_shuffled_control_is_shown_another_view_1(table: pd.DataFrame, held_out: Pair) -> None:
    rotation = rotation_angle(held_out.view2_to_view1[:, :3, :3])
    assert value(table, "shuffled", "rotation_error") == pytest.approx(
        rotation.median().item(), abs=0.1
    )
    assert rows(table, source="shuffled", stratum="all", metric="rotation_error")[0]["pairs"] == 9


def test_random_weights_know_nothing(table: pd.DataFrame) -> None:
    assert value(table, "random", "pointmap_error") > 0.3


def test_strata_count_their_pairs(table: pd.DataFrame, held_out: Pair) -> None:
    easy, hard = strata(held_out)
    for name, mask in (("easy", easy), ("hard", hard)):
        (row,) = rows(table, source="model", stratum=name, metric="rotation_error")
        assert row["pairs"] == int(mask.sum())
    for mask, name in ((easy, "easy"), (hard, "hard")):
        chosen = rotation_angle(held_out.view2_to_view1[mask, :3, :3])
        middle = chosen.sort().values[[(len(chosen) - 1) // 2, len(chosen) // 2]].mean().item()
        assert value(table, "shuffled", "rotation_error", stratum=name) == pytest.approx(
            middle, abs=0.2
        )


def test_strata_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EASY == "overlap over 0.5 and rotation under 40 degrees"
    assert HARD == "overlap under 0.3 or rotation over 60 degrees"
    overlap = torch.tensor([0.6, 0.6, 0.6, 0.45, 0.2, 0.2])
    degrees = torch.tensor([10.0, 50, 70, 10, 10, 70]).deg2rad()
    pose = torch.eye(4).repeat(6, 1, 1)
    pose[:, 0, 0] = pose[:, 1, 1] = degrees.cos()
    pose[:, 1, 0], pose[:, 0, 1] = degrees.sin(), -degrees.sin()
    view = View(torch.zeros(6, 3, 8, 8), cam_to_world=torch.eye(4).repeat(6, 1, 1))
    monkeypatch.setattr(Pair, "overlap", lambda _: overlap)
    easy, hard = strata(Pair(view, replace(view, cam_to_world=pose)))
    assert easy.tolist() == [True, False, False, False, False, False]
    assert hard.tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize(("count", "batch", "sizes"), [(3, 32, {3}), (9, 8, {9}), (99, 4, {9})])
def test_every_count_of_pairs_works(
    held_out: Pair, count: int, batch: int, sizes: set[int]
) -> None:
    done: list[tuple[int, int]] = []
    table = evaluate(
        random(CONFIG),
        Held(held_out),
        count,
        batch=batch,
        report=lambda *progress: done.append(progress),
    )
    counted = table[(table.stratum == "all") & (table.metric == "rotation_error")].pairs
    assert set(counted) == sizes
    assert len(counted) == 5
    assert done[-1] == (min(count, 9), min(count, 9))


def test_a_lone_pair_has_no_shuffled_control(held_out: Pair) -> None:
    table = evaluate(random(CONFIG), Held(held_out), 1)
    assert set(table.source) == SOURCES - {"shuffled"}
    assert set(table[table.stratum == "all"].pairs) == {1}


def test_the_same_seed_gives_the_same_table(held_out: Pair) -> None:
    model = random(CONFIG, seed=3)
    one, two, other = (evaluate(model, Held(held_out), 9, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert value(one, "random", "rotation_error") != value(other, "random", "rotation_error")
    assert value(one, "model", "rotation_error") == value(other, "model", "rotation_error")


def test_probes_are_measured_at_every_site(held_out: Pair) -> None:
    model = random(CONFIG, seed=3)
    _, bank = bank_for(model, "mlp")
    table = evaluate(model, Held(held_out), 4, bank)
    assert set(table.site) == {"head", *bank.sites}
    assert set(table[table.site != "head"].source) == {"model"}
    for site in bank.sites:
        found = {row["metric"] for row in rows(table, site=site, stratum="all")}
        if site.startswith("dec1"):
            assert found == {"pointmap_error"}
            assert {row["view"] for row in rows(table, site=site)} == {1}
        else:
            assert found == METRICS
            assert {row["view"] for row in rows(table, site=site)} == {2}
    in_order = [site for site in dict.fromkeys(table.site) if site.startswith("dec2")]
    assert in_order == [site for site in bank.sites if site.startswith("dec2")]


def test_readers_are_measured_side_by_side(held_out: Pair) -> None:
    model = random(CONFIG, seed=3)
    kinds = ("mlp", "linear", "random")
    readers = [*(bank_for(model, kind)[1] for kind in kinds), Lens.of(model)]
    together = evaluate(model, Held(held_out), 4, readers)
    sources = {"model", "linear", "random", "logit"}
    assert set(together[together.site != "head"].source) == sources
    for reader, source in zip(readers, ("model", "linear", "random", "logit"), strict=True):
        alone = evaluate(model, Held(held_out), 4, reader)
        columns = ["site", "view", "metric", "stratum", "value"]
        one, other = (
            table[(table.source == source) & (table.site != "head")][columns].reset_index(drop=True)
            for table in (alone, together)
        )
        assert len(one) > 100
        pd.testing.assert_frame_equal(one, other)
    last = together[(together.source == "logit") & (together.site == "dec2.1.mlp")]
    head = together[(together.source == "model") & (together.site == "head")]
    of_head = head.set_index(["stratum", "view", "metric"]).value
    for row in last.itertuples():
        expected = of_head[row.stratum, row.view, row.metric]
        assert row.value == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_readers_are_of_different_kinds_and_of_this_model(held_out: Pair) -> None:
    model = random(CONFIG, seed=3)
    bank = bank_for(model, "mlp")[1]
    with pytest.raises(Prob3rError, match="Two of the probes are 'mlp'; give one of a kind"):
        evaluate(model, Held(held_out), 4, [bank, bank_for(model, "mlp", seed=1)[1]])
    bank.backbone = fingerprint(random(CONFIG, seed=4))
    with pytest.raises(Prob3rError, match="trained on the model"):
        evaluate(model, Held(held_out), 4, bank)


def test_a_random_control_is_read_off_random_weights(held_out: Pair) -> None:
    model = random(CONFIG, seed=3)
    backbone, bank = bank_for(model, "random", seed=5)
    bank.backbone = fingerprint(backbone)
    table = evaluate(model, Held(held_out), 4, bank)
    bank.random_seed = None  # then it is a plain bank of that backbone
    expected = evaluate(backbone, Held(held_out), 4, bank)
    values = [
        t[(t.source == source) & (t.site != "head")].value.tolist()
        for t, source in ((table, "random"), (expected, "model"))
    ]
    assert values[0] == pytest.approx(values[1], nan_ok=True)


def test_no_cameras_are_drawn_where_they_are_not_needed(
    held_out: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation._mean_pose", lambda _: pytest.fail("drawn"))
    bare = held_out.with_views(view2=replace(held_out.view2, depth=None, valid=None))
    evaluate(random(CONFIG), Held(bare), 2)


def test_photographs_give_what_is_known_of_them() -> None:
    model = random(CONFIG, seed=3)
    table = evaluate(model, open_pairs(str(PAIRS / "aloe"), model))
    found = {(row.source, row.view, row.metric) for row in table.itertuples()}
    known = {(1, "pointmap_error"), (2, "rotation_error"), (2, "translation_error")}
    assert found == {(source, *metric) for source in ("model", "random") for metric in known}
    assert set(table.stratum) == {"all"}
    assert set(table.pairs) == {1}


def test_without_depth_of_view_2_the_pose_is_found_by_pnp(held_out: Pair) -> None:
    bare = held_out.with_views(view2=replace(held_out.view2, depth=None, valid=None))
    table = evaluate(Oracle(held_out), Held(bare), 4, batch=4)
    assert value(table, "model", "rotation_error") < 0.5
    assert value(table, "model", "translation_error") < 2
    assert value(table, "model", "pointmap_error", view=1) < 1e-5
    assert set(table.source) == {"model", "random", "shuffled"}


def test_cameras_alone_give_rotation_and_translation(held_out: Pair) -> None:
    bare = held_out.with_views(
        view1=replace(held_out.view1, depth=None, valid=None),
        view2=replace(held_out.view2, depth=None, valid=None, intrinsics=None),
    )
    table = evaluate(Oracle(held_out), Held(bare), 4, batch=4)
    assert set(table.metric) == {"rotation_error", "translation_error"}
    assert set(table.stratum) == {"all"}
    assert value(table, "model", "rotation_error") < 1
    assert value(table, "model", "translation_error") < 6
    assert table.attrs["no depth"] == (
        "4 pairs lack the depth of a view, so their poses are found by PnP; pointmap_error of view "
        "1, pointmap_error of view 2, scale_error, shape_error, auc need it and are absent"
    )


def test_failures_of_pnp_are_the_worst_and_short_baselines_are_left_out(
    held_out: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.pose_of_pointmap", lambda *_: None)
    bare = held_out.with_views(view2=replace(held_out.view2, depth=None, valid=None))
    assert held_out.view1.cam_to_world is not None
    at_once = held_out.view1.cam_to_world.clone()
    at_once[1:, :3, 3] += 1
    bare = bare.with_views(view2=replace(bare.view2, cam_to_world=at_once))
    table = evaluate(random(CONFIG), Held(bare), 4)
    (rotation,) = rows(table, source="model", metric="rotation_error")
    (translation,) = rows(table, source="model", metric="translation_error")
    assert (rotation["value"], rotation["pairs"]) == (180, 4)
    assert (translation["value"], translation["pairs"]) == (180, 3)


def test_photographs_without_any_truth_are_refused() -> None:
    model = random(CONFIG, seed=3)
    with pytest.raises(Prob3rError, match=r"books: there is nothing to measure against; .* needs"):
        evaluate(model, open_pairs(str(PAIRS / "books"), model))


def test_rows_are_written_as_json(table: pd.DataFrame, tmp_path: Path) -> None:
    changed = table.copy()
    changed.loc[0, "value"] = math.nan
    changed.loc[1, "high"] = math.inf
    write_rows(changed, tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["sample"] == "all 9 pairs"
    written = content["rows"]
    assert len(written) == len(table)
    assert all(list(row) == COLUMNS for row in written)
    assert written[0]["value"] is None
    assert written[1]["high"] is None
    assert written[2] == table.iloc[2].to_dict()
    types = {name: {type(row[name]) for row in written[2:]} for name in COLUMNS}
    assert types["pairs"] == types["view"] == {int}
    assert types["source"] == types["stratum"] == types["site"] == types["metric"] == {str}
    with pytest.raises(Prob3rError, match="cannot be written"):
        write_rows(table, tmp_path / "missing" / "rows.json")


class Mixed(Items):
    """Rooms of which every other one has no depth in view 2."""

    def __init__(self) -> None:
        self.rooms = Rooms("test", (32, 32), compile=False).batch(range(12))

    def __len__(self) -> int:
        return len(self.rooms)

    def read(self, index: int) -> Pair:
        pair = self.rooms[index]
        if index % 2:
            return pair
        view2 = replace(pair.view2, depth=None, valid=None)
        return pair.with_views(view2=view2)


def test_pairs_of_which_less_is_known_count_where_they_can() -> None:
    model, mixed = random(CONFIG), Mixed()
    table = evaluate(model, mixed, batch=4)
    pairs = table[table.source == "model"].set_index(["metric", "view", "stratum"]).pairs
    assert pairs["rotation_error", 2, "all"] == 12
    assert pairs["shape_error", 2, "all"] == 6
    known = mixed.rooms[list(range(1, 12, 2))]
    easy, hard = strata(known)
    assert pairs["rotation_error", 2, "easy"] == int(easy.sum())
    assert pairs["rotation_error", 2, "hard"] == int(hard.sum())
    alone = evaluate(model, Held(known))
    for stratum in ("easy", "hard"):
        both = [
            t[(t.source == "model") & (t.stratum == stratum) & (t.metric == "scale_error")].value
            for t in (table, alone)
        ]
        assert both[0].tolist() == pytest.approx(both[1].tolist(), rel=1e-4, nan_ok=True)


class Describing(Oracle):
    """Describes each pixel by its true point: products rank points by distance; or by noise."""

    def __init__(self, pair: Pair, noise: bool):
        super().__init__(pair)
        self.noise = noise

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        output = super().forward(*images)
        first, second = output.points
        if self.noise:
            return output._replace(descriptors=(torch.randn_like(first), torch.randn_like(second)))
        # (p, -p^2/2, 1) (q, 1, -q^2/2) = -(p - q)^2 / 2
        halves = [-p.square().sum(-1, keepdim=True) / 2 for p in (first, second)]
        one = torch.ones_like(halves[0])
        described = torch.cat((first, halves[0], one), -1), torch.cat((second, one, halves[1]), -1)
        return output._replace(descriptors=described)


def test_descriptors_are_measured_by_their_reciprocal_matches(
    held_out: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.studies.evaluation.MATCH_STEP", 2)
    knowing, guessing = (
        evaluate(Describing(held_out, noise), Held(held_out), 9) for noise in (False, True)
    )
    assert value(knowing, "descriptors", "right_matches") > 0.9
    assert value(knowing, "descriptors", "rotation_error") < 2
    assert value(knowing, "descriptors", "auc@30") > 0.9
    assert value(guessing, "descriptors", "right_matches") < 0.2
    assert value(guessing, "descriptors", "rotation_error") > 60


def test_of_a_model_without_pointmaps_the_readers_are_measured(held_out: Pair) -> None:
    model = random(CroCoConfig((32, 32), 8, 16, 1, 2, 24, 2, 2))
    bank = bank_for(model, "linear")[1]
    table = evaluate(model, Held(held_out), 9, bank)
    assert {*table.source} == {"linear", "mean_pose", "identity_pose"}
    assert {row["site"] for row in rows(table, source="linear")} >= {"dec1.embed", "dec2.1.mlp"}
