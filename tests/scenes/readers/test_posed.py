"""Data sets with cameras and no depth: what they promise, and what they say they lack."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_matches
from prob3r.models import random
from prob3r.models.dust3r import DUSt3RConfig
from prob3r.scenes.check import survey
from prob3r.scenes.readers import READERS, CalibratedPairs, Reader, SevenScenes
from prob3r.scenes.readers.sets import sets_by_names, sets_by_stride
from prob3r.scenes.sampling import choose, select
from prob3r.scenes.source import batches, open_pairs
from prob3r.studies import evaluate
from tests.scenes.readers.benchmark_writers import PAIRS, calibrated_pairs, sevenscenes_projected
from tests.scenes.readers.conftest import Written
from tests.scenes.readers.shots import FRAMING, shots
from tests.scenes.readers.writers import colmap


def test_cameras_survive(posed: Written) -> None:
    reader = posed.open()
    assert set(reader.names) == set(posed.truth)
    assert not reader.has_depth
    for frame, name in enumerate(reader.names):
        view, shot = reader.view(frame), posed.truth[name]
        assert view.depth is None
        assert view.valid is None
        np.testing.assert_allclose(view.intrinsics[0].numpy(), shot.intrinsics, atol=2e-5)
        np.testing.assert_allclose(view.cam_to_world[0].numpy(), shot.cam_to_world, atol=2e-6)
        levels = 127.5 * (view.image[0].permute(1, 2, 0).numpy() + 1)
        assert np.abs(levels - shot.image).mean() < 1


def test_pairs_are_listed_or_follow_each_other(posed: Written) -> None:
    reader = posed.open()
    names = [list(posed.truth).index(name) for name in reader.names]
    pairs = [tuple(names[frame] for frame in pair) for pair in reader.pairs.tolist()]
    expected = {
        "re10k": [(0, 1), (1, 2), (2, 3), (3, 4)],
        "co3dv2": [(i, i + 1) for i in range(9) if i != 4],
        "calibrated-pairs": [(0, 1), (2, 3), (4, 5)],
        "posed-pairs": [*PAIRS],
    }
    assert pairs == expected[posed.layout]


def test_they_are_opened_by_sight_and_batched(posed: Written) -> None:
    reader = open_pairs(str(posed.root), FRAMING)
    assert type(reader) is READERS[posed.layout]
    (pair,) = batches(reader, 3, 3)
    assert len(pair) == 3
    assert pair.has_poses
    assert not pair.has_truth


def test_what_needs_depth_is_refused_by_name(posed: Written) -> None:
    reader = posed.open()
    for ask in (reader.coarse, reader.depth_file, reader.depth):
        with pytest.raises(Prob3rError, match=r"has no depth in the .* layout; leave out what"):
            ask(0)
    with pytest.raises(Prob3rError, match="such as bounds of the overlap"):
        select(reader, overlap=(0.2, 0.8))
    turned = choose(reader, 2, rotation=(0, 180))
    assert len(turned) == 2


def test_they_are_looked_over(posed: Written) -> None:
    found = survey(open_pairs(str(posed.root), FRAMING, strict=False), 3)
    assert not found.faults
    assert found.usable
    assert found.checks == []


def test_they_are_evaluated_by_what_they_have(posed: Written) -> None:
    model = random(DUSt3RConfig((48, 64), 16, 16, 1, 2, 24, 2, 2))
    table = evaluate(model, posed.open(), 3)
    assert set(table.metric) == {"rotation_error", "translation_error"}
    assert "shape_error, auc need it and are absent" in table.attrs["no depth"]


def test_a_bad_camera_is_named(write: Callable[[str], Written], tmp_path: Path) -> None:
    own = write("re10k").copy(tmp_path)
    (file,) = own.root.glob("*/annotations.json")
    content = json.loads(file.read_text())
    content[1]["extrinsics"][0][0] = 5.0
    file.write_text(json.dumps(content))
    with pytest.raises(Prob3rError, match=r"0001\.png has a camera with a pose whose 3x3 part is"):
        own.open().view(1)


def test_superglue_s_list_says_the_same(tmp_path: Path) -> None:
    truth = calibrated_pairs(tmp_path, superglue=True)
    reader = open_pairs(str(tmp_path), FRAMING)
    assert isinstance(reader, CalibratedPairs)
    for frame, name in enumerate(reader.names):
        pose = reader.camera(frame).cam_to_world[0].numpy()
        np.testing.assert_allclose(pose, truth[name].cam_to_world, atol=1e-5)
    file = tmp_path / "scannet_test_pairs_with_gt.txt"
    file.write_text(file.read_text().replace(" 0 0 ", " 0 1 ", 1))
    with pytest.raises(Prob3rError, match=r"line 1 of .*: images that have to be turned"):
        open_pairs(str(file), FRAMING)
    file.write_text("a.jpg b.jpg 1 2 3\n")
    with pytest.raises(Prob3rError, match="has 5 words; a calibrated pair has 32, 36 or 38"):
        open_pairs(str(file), FRAMING)


def test_calibrated_pairs_make_no_longer_sets(write: Callable[[str], Written]) -> None:
    with pytest.raises(Prob3rError, match="has poses within its listed pairs alone"):
        sets_by_stride(write("calibrated-pairs").open(), 3)


def test_a_pair_of_a_list_that_has_no_view_is_named(
    write: Callable[[str], Written], tmp_path: Path
) -> None:
    own = write("posed-pairs").copy(tmp_path)
    (own.root / "pairs.txt").write_text("0015/0_0ce1c_o.jpg elsewhere.jpg\n")
    with pytest.raises(Prob3rError, match=r"has no view elsewhere\.jpg, which pairs\.txt lists"):
        own.open()
    views = own.root / "views.txt"
    views.write_text(views.read_text().replace("PINHOLE", "OPENCV", 1))
    with pytest.raises(Prob3rError, match=r"_o\.jpg is OPENCV; it must be one of PINHOLE, SIMPLE_"):
        own.open()


def test_frames_are_read_without_looking_for_pairs(
    write: Callable[[str], Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write("nrgbd")
    monkeypatch.setattr(READERS["nrgbd"], "depth", lambda *_: pytest.fail("depth was read"))
    reader: Reader = READERS["nrgbd"](written.root, FRAMING, seek=False)
    assert len(reader) == 0
    assert len(sets_by_names(reader, [reader.names[:3]])) == 1


def test_depth_in_the_colour_camera_comes_with_its_focal_length(tmp_path: Path) -> None:
    truth = sevenscenes_projected(tmp_path)
    reader = SevenScenes(tmp_path, FRAMING)
    for frame, name in enumerate(reader.names):
        view, shot = reader.view(frame), truth[name]
        np.testing.assert_allclose(view.intrinsics[0].numpy(), shot.intrinsics, atol=1e-5)
        np.testing.assert_allclose(view.depth[0].numpy(), shot.depth, atol=5.1e-4)
    match = pixel_matches(reader[0].match_truth)
    assert match.visible.float().mean() > 0.4


def test_a_colmap_model_without_depth_pairs_images_by_their_points(tmp_path: Path) -> None:
    colmap(tmp_path)
    for file in tmp_path.rglob("*.bin"):
        if "depth_maps" in str(file):
            file.unlink()
    for folder in ("stereo/depth_maps/left", "stereo/depth_maps", "stereo", "depth/left", "depth"):
        for left in (tmp_path / folder).glob("*.png"):
            left.unlink()
        (tmp_path / folder).rmdir()
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    images = {image.name: image.image_id for image in model.images.values()}
    seen = {0: range(20), 1: range(10, 30), 2: range(19, 30), 3: range(100, 110), 4: ()}
    lists = {i: [pycolmap.Point2D([1.0 + j, 2.0]) for j in range(40)] for i in seen}
    for i, points in lists.items():
        model.images[images[f"left/{i:04d}.jpg"]].points2D = pycolmap.Point2DList(points)
    for point in sorted({p for points in seen.values() for p in points}):
        track = pycolmap.Track()
        for i, points in seen.items():
            if point in points:
                track.add_element(images[f"left/{i:04d}.jpg"], list(points).index(point))
        model.add_point3D(np.zeros(3), track)
    model.write_binary(str(tmp_path / "sparse" / "0"))
    reader = open_pairs(f"colmap:{tmp_path}", FRAMING)
    assert isinstance(reader, Reader)
    assert not reader.has_depth
    assert reader.pairs.tolist() == [[0, 1], [1, 2]]  # 0 and 2 share one of twenty
    view = reader.view(0)
    assert view.depth is None
    assert torch.allclose(
        view.cam_to_world[0].double(), torch.from_numpy(shots()[0].cam_to_world), atol=1e-5
    )
