"""Scenes of several views are measured by cameras and by points, beside their controls."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import median, rotation_angle
from prob3r.measures.scenes import scene_errors
from prob3r.models import save
from prob3r.rooms import Rooms
from prob3r.scenes.views import Views
from prob3r.studies.scene_evaluation import evaluate_scenes
from tests.cli.test_protocols import prob3r
from tests.models.examples import EXAMPLES

CAMERAS = {"rotation_error", "translation_error", "auc@30"}
METRICS = {f"{teller} {name}" for teller in ("stated", "points") for name in CAMERAS}


@pytest.fixture(scope="module")
def rooms() -> Rooms[Views]:
    return Rooms("test", (28, 28), compile=False, views=3)


@pytest.fixture(scope="module")
def table(rooms: Rooms[Views]) -> pd.DataFrame:
    return evaluate_scenes(EXAMPLES["vggt"](), rooms, 5, batch=3)


def value(table: pd.DataFrame, source: str, metric: str, column: str = "value") -> float:
    return float(table.set_index(["source", "metric"])[column][source, metric])


def test_rows_name_what_was_measured(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["source", "metric", "value", "low", "high", "scenes"]
    assert not table.duplicated(["source", "metric"]).any()
    found = {source: set(rows.metric) for source, rows in table.groupby("source")}
    points = {"pointmap_error", "shape_error"}
    assert found == {
        "model": METRICS | points,
        "identity_pose": METRICS,
        "random": METRICS | points,
        "shuffled": METRICS | points,
    }
    assert (table.low <= table.value).all()
    assert (table.value <= table.high).all()
    assert set(table.scenes) == {5}
    assert table.attrs["names"] == [f"rooms/test/{n}" for n in range(5)]


def test_a_row_is_the_median_over_scenes_and_of_an_auc_the_mean(
    table: pd.DataFrame, rooms: Rooms[Views]
) -> None:
    scenes = rooms.batch(range(5))
    with torch.no_grad():
        errors = scene_errors(EXAMPLES["vggt"]()(*scenes.images), scenes)
    for name in ("stated rotation_error", "pointmap_error"):
        assert value(table, "model", name) == pytest.approx(median(errors[name]).item(), rel=1e-3)
    auc = errors["points auc@30"].mean().item()
    assert value(table, "model", "points auc@30") == pytest.approx(auc, abs=1e-4)


def test_the_identity_pose_is_off_by_the_true_angles(
    table: pd.DataFrame, rooms: Rooms[Views]
) -> None:
    poses = rooms.batch(range(5)).cam_to_world[..., :3, :3]
    angles = [rotation_angle(poses[:, i].mT @ poses[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    true = median(torch.stack(angles).mean(0)).item()
    assert value(table, "identity_pose", "stated rotation_error") == pytest.approx(true, abs=0.01)
    assert value(table, "identity_pose", "points translation_error") == pytest.approx(180)


def test_a_scene_alone_in_its_batch_has_no_shuffled_control(rooms: Rooms[Views]) -> None:
    table = evaluate_scenes(EXAMPLES["vggt"](), rooms, 1)
    assert set(table.source) == {"model", "identity_pose", "random"}


def test_scenes_without_truth_are_refused() -> None:
    class Unknown:
        def __len__(self) -> int:
            return 2

        def batch(self, indices: list[int]) -> Views:
            scenes = Rooms("test", (28, 28), compile=False, views=3).batch(indices)
            return Views(tuple(type(view)(view.image) for view in scenes.views), scenes.names)

    with pytest.raises(Prob3rError, match=r"rooms/test/0.*need the depth and the cameras"):
        evaluate_scenes(EXAMPLES["vggt"](), Unknown(), 2)


def test_from_the_command_line(tmp_path: Path) -> None:
    model, result = tmp_path / "vggt.safetensors", tmp_path / "result.json"
    save(EXAMPLES["vggt"](), model, {"name": "vggt"})
    arguments = ("--model", model, "--data", "rooms:test@28", "--views", 3, "--pairs", 2)
    output = prob3r("evaluate", *arguments, "--json", result)
    assert "3 views" in output
    assert "stated rotation_error" in output
    content = json.loads(result.read_text())
    assert content["protocol"]["name"] == "scenes of 3 views"
    assert len(content["frames"]["list"]) == 2
    assert "points auc@30" in prob3r("compare", result, result)


def test_more_views_than_the_model_takes_are_refused() -> None:
    with pytest.raises(Prob3rError, match="mini takes at most 2 views, and --views is 3"):
        prob3r("evaluate", "--model", "mini", "--views", 3)
    with pytest.raises(Prob3rError, match="--probes has no meaning for scenes of --views"):
        prob3r("evaluate", "--views", 3, "--probes", "mlp")
