from dataclasses import replace

import pytest
import torch

from prob3r.geometry import transform
from prob3r.measures.scenes import camera_errors, pair_errors, scene_errors
from prob3r.models.protocol import Cameras, Prediction
from prob3r.rooms import Rooms
from prob3r.scenes.views import Views


@pytest.fixture(scope="module")
def scenes() -> Views:
    return Rooms("test", (32, 32), compile=False, views=3).batch([0, 1])


def truth(scenes: Views, scale: float = 1.0) -> Prediction:
    points = tuple(scale * points for points in scenes.points)
    cameras = scenes.cam_to_world.clone()
    cameras[..., :3, 3] *= scale
    return Prediction(points, tuple(p[..., 0] for p in points), Cameras(cameras))


def turn(degrees: float) -> torch.Tensor:
    """Return a rotation about the y axis as a motion."""
    angle = torch.deg2rad(torch.tensor(degrees))
    motion = torch.eye(4)
    motion[0, 0] = motion[2, 2] = angle.cos()
    motion[0, 2], motion[2, 0] = angle.sin(), -angle.sin()
    return motion


def test_the_truth_in_another_unit_has_no_errors(scenes: Views) -> None:
    errors = scene_errors(truth(scenes, 3.0), scenes)
    assert len(errors) == 8
    for name, values in errors.items():
        assert values.shape == (2,)
        wanted = 1.0 if "auc" in name else 0.0
        assert values.tolist() == pytest.approx(
            [wanted] * 2, abs=2e-2 if "_error" in name else 1e-3
        )


def test_a_camera_turned_by_six_degrees_counts_in_two_of_three_pairs(scenes: Views) -> None:
    said = truth(scenes)
    assert said.cameras is not None
    poses = said.cameras.cam_to_world.clone()
    poses[:, 2] = poses[:, 2] @ turn(6.0)
    errors = scene_errors(said._replace(cameras=Cameras(poses)), scenes)
    assert errors["stated rotation_error"].tolist() == pytest.approx([4.0, 4.0], abs=1e-2)
    assert errors["points rotation_error"].max() < 0.1
    assert errors["pointmap_error"].max() < 1e-4


def test_points_turned_with_their_camera_have_their_shape_and_a_wrong_pose(scenes: Views) -> None:
    said = truth(scenes)
    first, second, third = said.points
    moved = transform(third, turn(6.0).expand(2, 4, 4))
    errors = scene_errors(said._replace(points=(first, second, moved), cameras=None), scenes)
    assert not any(name.startswith("stated") for name in errors)
    assert errors["points rotation_error"].tolist() == pytest.approx([4.0, 4.0], abs=0.05)
    assert errors["shape_error"].max() < 1e-3
    assert (errors["pointmap_error"] > 0.01).tolist() == [True, True]


def test_the_pose_of_a_pair_is_that_of_the_stated_cameras_if_there_are_any(scenes: Views) -> None:
    pair, said = scenes.pair(1, 2), truth(scenes)
    assert said.cameras is not None
    poses = said.cameras.cam_to_world[:, :2].clone()
    poses[:, 1] = poses[:, 1] @ turn(6.0)
    stated = Prediction(said.points[:2], said.confidence[:2], Cameras(poses))
    errors, told = pair_errors(stated, pair), pair_errors(stated._replace(cameras=None), pair)
    assert errors["rotation_error"].tolist() == pytest.approx([6.0, 6.0], abs=1e-2)
    assert told["rotation_error"].max() < 0.1
    assert errors.keys() == told.keys()
    assert torch.equal(errors["shape_error"], told["shape_error"])


def test_the_auc_is_the_exact_area_over_the_pairs() -> None:
    true = torch.eye(4).repeat(1, 3, 1, 1)
    true[0, 1, 0, 3], true[0, 2, 1, 3] = 1.0, 1.0
    said = true.clone()
    said[0, 2] = said[0, 2] @ turn(15.0)
    errors = camera_errors(said, true, torch.ones(1))
    # Rotations 0, 15, 15; camera 3 looks at the others from where it was, so that their directions
    # in its frame turn by up to 15 degrees and are never worse than the rotation.
    # The curve goes from 1/3 at 0 to 2/3 at 15, and is 1 from there: 0.5 * 15 + 15 = 22.5 of 30.
    assert errors["rotation_error"].item() == pytest.approx(10.0, abs=1e-3)
    assert errors["auc@30"].item() == pytest.approx(22.5 / 30, abs=1e-3)


def test_cameras_at_one_place_have_no_translation_error() -> None:
    true = torch.eye(4).repeat(1, 2, 1, 1)
    said = true.clone()
    said[0, 1, 0, 3] = 1.0
    errors = camera_errors(said, true, torch.ones(1))
    assert errors["translation_error"].isnan().item()
    assert errors["auc@30"].item() == pytest.approx(1.0)


def test_what_is_not_valid_has_no_influence(scenes: Views) -> None:
    said = truth(scenes)
    wild = said.points[1].clone()
    wild[:, :4] = 100.0
    masked = scenes.views[1].known.clone()
    masked[:, :4] = False
    views = (scenes.views[0], replace(scenes.views[1], valid=masked), scenes.views[2])
    points = (said.points[0], wild, said.points[2])
    errors = scene_errors(said._replace(points=points), replace(scenes, views=views))
    assert errors["pointmap_error"].max() < 1e-4
