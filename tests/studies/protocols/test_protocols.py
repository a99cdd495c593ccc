"""Every protocol on a data set in its exact layout: a model that knows the truth is right."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_grid
from prob3r.models import Prediction, random
from prob3r.scenes.readers import READERS, HPatches, Reader
from prob3r.scenes.readers.sets import sets_by_names
from prob3r.studies.protocols import PROTOCOLS, Outcome, protocol_named, reconstruct, run
from prob3r.studies.protocols.reconstruct import AT_ONCE, OWN_CAMERAS, PAIRS, PNP_CAMERAS
from prob3r.studies.protocols.reconstruct import Reconstruction as Found
from tests.scenes.readers.shots import FRAMING, shots
from tests.studies.protocols.conftest import Written
from tests.studies.protocols.oracle import CONFIG, Oracle, of_reader


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[dict[str, list[int]]], Path]:
    def write(places: dict[str, list[int]]) -> Path:
        file = tmp_path / "list.json"
        file.write_text(json.dumps(places))
        return file

    return write


def reader(layout: str, folder: Path) -> Reader:
    return READERS[layout](folder, FRAMING, seek=False)


def value(outcome: Outcome, metric: str) -> float:
    return float(outcome.table.set_index("metric").value[metric])


def test_every_protocol_says_what_it_is() -> None:
    assert len(PROTOCOLS) == 17
    for name, protocol in PROTOCOLS.items():
        described = protocol.describe()
        assert described["name"] == name
        assert all(described[key] for key in ("frames", "alignment", "metrics"))
        assert protocol.__doc__
        assert protocol.layout
        assert protocol.checked
    with pytest.raises(Prob3rError, match="There is no protocol 'nyu'; give one of 7scenes-d"):
        protocol_named("nyu")


def test_the_page_of_protocols_names_each() -> None:
    page = (Path(__file__).parents[3] / "docs/protocols.md").read_text(encoding="utf-8")
    listed = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in row.split(", ")}
    assert listed == {f"`{name}`" for name in PROTOCOLS}


@pytest.mark.parametrize("name", ["co3dv2", "re10k"])
def test_poses_of_ten_frames(root: Written, name: str) -> None:
    folder, protocol = root(name), protocol_named(f"{name}-poses")
    known = of_reader(reader(name, folder))
    outcome = run(protocol, known, folder, name="oracle")
    metrics = {f"{m}@{k}" for m in ("RRA", "RTA", "AUC") for k in (5, 15, 30)}
    assert set(outcome.table.metric) == metrics
    assert outcome.scenes.views.tolist() == [10] * len(outcome.scenes)
    # Copies of one photograph have no baseline, so that no direction is right for them.
    shown = [[_copied(frame) for frame in frames] for frames in outcome.about["frames"]["list"]]
    apart = [np.mean([a != b for i, a in enumerate(s) for b in s[i + 1 :]]) for s in shown]
    assert value(outcome, "RRA@5") == 1
    assert value(outcome, "RTA@5") == pytest.approx(np.mean(apart))
    assert value(outcome, "AUC@30") == pytest.approx(np.mean(apart), abs=0.01)
    assert outcome.about["model"]["views"] == AT_ONCE
    assert outcome.about["model"]["cameras"] == OWN_CAMERAS
    turned = Oracle(known.known.values(), off=20)
    assert value(run(protocol, turned, folder), "RRA@15") < 0.9


def _copied(frame: str) -> int:
    """Return which of the five photographs a frame's name says that it is a copy of."""
    return int(re.findall(r"(?:copy|/1)(\d{3})", frame)[0]) % 5


def test_sequences_of_co3d_that_the_list_leaves_out(root: Written) -> None:
    chosen = protocol_named("co3dv2-poses").choose(root("co3dv2"), FRAMING, None)
    # Of the short ones and those with impossible translations none; the unseen category last.
    assert [key[0] for key in chosen.keys] == ["110_13051_23361", "113_13350_23632"]
    draw = np.random.RandomState(42)
    assert [key[1] for key in chosen.keys] == [draw.choice(52, 10, False).tolist() for _ in "ab"]
    assert chosen.words == "drawn with seed 42"


def test_recordings_too_short_draw_nothing(root: Written) -> None:
    chosen = protocol_named("re10k-poses").choose(root("re10k"), FRAMING, None)
    assert chosen.keys == [
        ("000c3ab189999a83", np.random.RandomState(42).choice(12, 10, False).tolist())
    ]


def test_poses_of_listed_views(root: Written) -> None:
    folder = root("posed_pairs")
    known = of_reader(reader("posed-pairs", folder))
    outcome = run(protocol_named("megadepth-1500"), known, folder)
    assert outcome.about["frames"]["chosen"].startswith("3 of 1500 pairs, as listed in ")
    assert outcome.about["frames"]["list"][0] == ["0015/0_0ce1c_o.jpg", "0015/2_2ce1c_o.jpg"]
    assert outcome.scenes["pose error"].tolist() == pytest.approx([0] * 3, abs=0.05)
    assert value(outcome, "AUC@5") > 0.99
    off = run(protocol_named("megadepth-1500"), Oracle(known.known.values(), off=8), folder)
    assert off.scenes["rotation error"].tolist() == pytest.approx([8] * 3, abs=0.1)
    assert value(off, "AUC@5") == 0
    assert 0.4 < value(off, "AUC@20") < 0.9


def test_poses_of_calibrated_pairs(root: Written) -> None:
    folder = root("calibrated_pairs")
    opened = reader("calibrated-pairs", folder)
    views = []
    for frame, name in enumerate(opened.names):  # an image of two pairs has two poses there
        pose = shots()[int(Path(name).stem) // 15].cam_to_world
        views.append(replace(opened.view(frame), cam_to_world=torch.from_numpy(pose).float()[None]))
    outcome = run(protocol_named("scannet-1500"), Oracle(views), folder)
    assert outcome.scenes["pose error"].tolist() == pytest.approx([0] * 3, abs=0.05)
    assert set(outcome.table.metric) == {"AUC@5", "AUC@10", "AUC@20"}


CLOUDS = [
    ("7scenes-sparse", "7scenes", "sevenscenes", "chess/seq-01", "m"),
    ("nrgbd-dense", "nrgbd", "nrgbd", "green_room", "m"),
    ("eth3d-points", "eth3d", "eth3d", "office", "m"),
    ("dtu-points", "dtu", "dtu", "scan9", "mm"),
]


@pytest.mark.parametrize(("name", "layout", "data", "scene", "unit"), CLOUDS)
def test_reconstructions(
    root: Written,
    listed: Callable[[dict[str, list[int]]], Path],
    name: str,
    layout: str,
    data: str,
    scene: str,
    unit: str,
) -> None:
    folder, file = root(data), listed({scene: [2, 0]})
    known = of_reader(reader(layout, folder))
    outcome = run(protocol_named(name), known, folder, listed=file)
    names = outcome.about["frames"]["list"]
    assert [len(frames) for frames in names] == [2]
    assert names[0][1] < names[0][0]  # in the order of the list
    for metric in ("accuracy", "completeness", "accuracy (median)", "completeness (median)"):
        assert value(outcome, metric) == pytest.approx(0, abs=1e-4 if unit == "m" else 1e-2)
    assert value(outcome, "normal consistency") == pytest.approx(1, abs=1e-3)
    assert set(outcome.table.unit) == {unit, ""}
    assert outcome.about["frames"]["published"] is False
    turned = run(protocol_named(name), Oracle(known.known.values(), off=20), folder, listed=file)
    assert value(turned, "accuracy") > 100 * value(outcome, "accuracy")


def test_far_points_do_not_count(root: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = protocol_named("nrgbd-dense")
    assert protocol.farthest == 10
    opened = reader("nrgbd", root("nrgbd"))
    scene = sets_by_names(opened, [opened.names[:2]])[0]
    found = reconstruct(of_reader(opened), scene)
    bad = [points.clone() for points in found.points]
    bad[0][scene.views[0].depth > 4.0] += 50
    right = protocol.measure(0, scene, found)
    wrong = protocol.measure(0, scene, found._replace(points=tuple(bad)))
    assert wrong["accuracy"] > right["accuracy"] + 0.1
    monkeypatch.setattr(type(protocol), "farthest", 4.0)
    assert protocol.measure(0, scene, found._replace(points=tuple(bad))) == pytest.approx(
        protocol.measure(0, scene, found)
    )


def test_trajectories(root: Written) -> None:
    folder = root("sintel")
    outcome = run(
        protocol_named("sintel-trajectories"), of_reader(reader("sintel", folder)), folder
    )
    for metric in ("ATE", "RPE translation", "RPE rotation"):
        assert value(outcome, metric) == pytest.approx(0, abs=1e-2)
    turned = of_reader(reader("sintel", folder), off=20)
    assert value(run(protocol_named("sintel-trajectories"), turned, folder), "RPE rotation") > 5


def test_every_third_image_of_a_recording_without_asking_for_depth(root: Written) -> None:
    chosen = protocol_named("tum-trajectories").choose(root("recordings"), FRAMING, None)
    assert chosen.keys == [("rgbd_dataset_freiburg3_office", [0, 3])]
    scene = chosen.scenes.batch([0])
    assert scene.has_poses
    assert scene.views[0].depth is None


def test_depth_by_alignment(root: Written) -> None:
    folder = root("sintel")
    outcome = run(protocol_named("sintel-depth"), of_reader(reader("sintel", folder)), folder)
    for how in ("scale", "scale and shift"):
        assert value(outcome, f"AbsRel ({how})") == pytest.approx(0, abs=0.02)
        assert value(outcome, f"δ<1.25 ({how})") == pytest.approx(1, abs=0.01)
    (counted,) = outcome.scenes.pixels
    assert counted == 5 * (48 * 64 - 6 * 7)  # what is unknown in each frame does not count


@pytest.mark.parametrize(("name", "unit"), [("bonn", 0.5), ("kitti", 1.0)])
def test_depth_of_films(root: Written, name: str, unit: float) -> None:
    folder, protocol = root(name), protocol_named(f"{name}-depth")
    chosen = protocol.choose(folder, FRAMING, None)
    first = {"bonn": ("rgbd_bonn_balloon2", [30, 31, 32])}
    assert chosen.keys[0] == first.get(name, ("2011_09_26_drive_0002_sync_02", [0, 1, 2]))
    scene = chosen.scenes.batch([0])
    shown = scene.views[1]
    assert shown.depth[0].numpy() == pytest.approx(unit * shots()[1].depth, abs=5e-3)
    assert not scene.has_poses
    depth = [view.depth.where(view.known, 9.0) for view in scene.views]
    found = Found((), torch.empty(1, 0, 4, 4), tuple(0.4 * d for d in depth), [])
    assert protocol.measure(0, scene, found)["AbsRel (scale)"] == pytest.approx(0, abs=1e-4)
    wrong = found._replace(depth=tuple(0.4 * d.where(d < 2.5 * unit, 99.0) for d in depth))
    assert protocol.measure(0, scene, wrong)["δ<1.25 (scale)"] < 0.95
    outcome = run(protocol, random(CONFIG), folder)
    assert len(outcome.scenes) == len(chosen.names)
    assert outcome.about["model"]["views"] == PAIRS


def test_films_whose_images_and_depths_do_not_pair_are_refused(
    root: Written, tmp_path: Path
) -> None:
    with pytest.raises(
        Prob3rError, match=r"has 0 frames and .* 0, from number 30 on; there must be"
    ):
        protocol_named("bonn-depth").choose(tmp_path, FRAMING, None)
    with pytest.raises(Prob3rError, match="has no image_gathered/DRIVE; give val_selection_cro"):
        protocol_named("kitti-depth").choose(tmp_path, FRAMING, None)


@pytest.mark.parametrize("cameras", [True, False])
def test_a_model_of_two_views_sees_pairs_with_the_reference(root: Written, cameras: bool) -> None:
    folder = root("sintel")
    known = of_reader(reader("sintel", folder), most_views=2, cameras=cameras)
    outcome = run(protocol_named("sintel-trajectories"), known, folder)
    assert known.calls == 4
    assert outcome.about["model"]["views"] == PAIRS
    assert outcome.about["model"]["cameras"] == (OWN_CAMERAS if cameras else PNP_CAMERAS)
    assert value(outcome, "ATE") < 0.02
    assert value(outcome, "RPE rotation") < 1.5
    depth = run(protocol_named("sintel-depth"), known, folder)
    assert value(depth, "AbsRel (scale)") < 0.02  # all pairs were brought to one scale


def test_a_model_of_too_few_views_is_refused(root: Written) -> None:
    known = of_reader(reader("sintel", root("sintel")), most_views=4)
    with pytest.raises(Prob3rError, match="has 5 views, but the model takes at most 4; this"):
        run(protocol_named("sintel-trajectories"), known, root("sintel"))


def test_corrupt_scenes_are_skipped_and_named(
    root: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hpatches"
    shutil.copytree(root("hpatches"), folder)
    (folder / "v_there" / "H_1_3").write_text("1 0 0\n")
    (folder / "v_there" / "4.ppm").write_bytes(b"P6")
    with pytest.raises(Prob3rError, match=r"1 of 5 items are corrupt, .*H_1_3 must hold 3 rows"):
        run(protocol_named("hpatches-matches"), random(CONFIG), folder)
    monkeypatch.setattr("prob3r.scenes.readers.corrupt.LIMIT", 0.5)
    outcome = run(protocol_named("hpatches-matches"), random(CONFIG), folder)
    assert outcome.about["skipped"] == ["v_there/1, v_there/3", "v_there/1, v_there/4"]
    assert outcome.table.scenes.tolist() == [3] * 4
    assert len(outcome.about["frames"]["list"]) == 5


def test_cameras_that_are_not_found_fail_the_pairs(
    root: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.measures.reconstruction.pose_of_pointmap", lambda *_: None)
    folder = root("posed_pairs")
    known = of_reader(reader("posed-pairs", folder), cameras=False)
    outcome = run(protocol_named("megadepth-1500"), known, folder)
    assert outcome.scenes["pose error"].tolist() == [math.inf] * 3
    assert value(outcome, "AUC@20") == 0


def test_hpatches_by_the_homography(root: Written) -> None:
    folder, protocol = root("hpatches"), protocol_named("hpatches-matches")
    chosen = protocol.choose(folder, FRAMING, None)
    assert chosen.keys == [("v_there", [1, k]) for k in range(2, 7)]
    scene = chosen.scenes.batch([1])
    truth, (across, down) = protocol.truth(1, scene)
    # The photograph of 81x60 pixels becomes 64x47, of which 64x32 are kept.
    assert (across, down) == (240 / 64, 240 / 47)
    assert truth.visible.any()
    assert not truth.visible.all()
    grid = pixel_grid(*scene.view1.size)
    flat = torch.cat([grid, torch.zeros_like(grid[..., :1])], -1)[None]
    moved = torch.cat([truth.pixels, torch.zeros_like(truth.pixels[..., :1])], -1).nan_to_num(-99)

    def found(points1: torch.Tensor, points2: torch.Tensor) -> dict[str, float]:
        prediction = Prediction((points1, points2), ())
        return protocol.measure(1, scene, Found((), torch.empty(1, 0, 4, 4), (), [prediction]))

    right = found(flat, moved)
    assert right["end-point error"] < 0.55 * max(across, down)  # rounding to whole pixels
    assert right["pixels"] == int(truth.visible.sum())
    assert right["PCK@5"] == 1
    shifted = found(flat, moved - torch.tensor([3.0, 0, 0]))
    assert shifted["PCK@5"] < 0.3
    described = random(CONFIG)(scene.view1.image, scene.view2.image)
    assert set(protocol.measure(1, scene, Found((), torch.empty(1, 0, 4, 4), (), [described]))) == (
        set(right)
    )


def test_a_homography_that_is_none_is_corrupt(root: Written, tmp_path: Path) -> None:
    pairs = HPatches(root("hpatches"), FRAMING)
    (tmp_path / "v_x").mkdir()
    (tmp_path / "v_x" / "H_1_2").write_text("1 0 0\n0 1 0\n")
    pairs.pairs = [(tmp_path / "v_x", 2)]
    with pytest.raises(Prob3rError, match="H_1_2 must hold 3 rows of 3 numbers"):
        pairs.homography(0)
    with pytest.raises(Prob3rError, match="holds no v_SEQUENCE"):
        HPatches(tmp_path / "v_x", FRAMING)


def test_eth3d_matches_by_depth(root: Written) -> None:
    folder = root("eth3d")
    known = of_reader(reader("eth3d", folder))
    outcome = run(protocol_named("eth3d-matches"), known, folder)
    assert len(outcome.scenes) == 10
    assert value(outcome, "PCK@5") > 0.95
    turned = run(protocol_named("eth3d-matches"), Oracle(known.known.values(), off=20), folder)
    assert value(turned, "end-point error") > 3 * value(outcome, "end-point error")
