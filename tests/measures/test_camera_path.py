"""The cameras of every block, in camera 1's frame, against the truth or the last block."""

import pytest
import torch

from prob3r.geometry import invert_rigid, rotation_angle
from prob3r.measures.camera_path import CameraCurves, camera_path
from prob3r.models import VGGT
from prob3r.probes import cameras_at_blocks
from prob3r.runs.edits import HeadAblation, Skip
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import Views, views_of
from tests.models.examples import EXAMPLES


@pytest.fixture(scope="module")
def model() -> VGGT:
    made = EXAMPLES["vggt"]()
    assert isinstance(made, VGGT)
    return made


@pytest.fixture(scope="module")
def views() -> Views:
    generator = torch.Generator().manual_seed(0)
    return views_of([View(torch.randn(2, 3, 28, 42, generator=generator)) for _ in range(3)])


def test_poses_are_those_of_the_camera_head_in_the_frame_of_camera_1(
    model: VGGT, views: Views
) -> None:
    path = camera_path(model, views)
    assert path.blocks == (0, 1)
    for place, (_, cameras) in enumerate(cameras_at_blocks(model, views).items()):
        poses = cameras.cam_to_world
        for view in range(3):
            expected = invert_rigid(poses[:, 0]) @ poses[:, view]
            torch.testing.assert_close(path.cam_to_world[place, :, view], expected)


def test_without_the_truth_the_last_block_is_the_measure(model: VGGT, views: Views) -> None:
    path = camera_path(model, views)
    assert path.rotation_error.shape == (2, 2, 2)
    assert path.rotation_error[-1].max() < 0.1
    first, last = path.cam_to_world[:, 0, 2, :3, :3]
    expected = rotation_angle((last.mT @ first)[None])[0]
    torch.testing.assert_close(path.rotation_error[0, 0, 1], expected)
    curves = CameraCurves.of(path, views)
    assert (curves.blocks, curves.against) == ((0, 1), "final state")
    assert list(curves.rotation_error) == list(curves.translation_error) == [2, 3]
    assert curves.rotation_error[3][0] == pytest.approx(float(expected), abs=1e-4)
    assert curves.translation_error[2][0] == float(path.translation_error[0, 0, 0])


def test_against_the_truth(model: VGGT, views: Views) -> None:
    """The truth is what the first block says: in another world frame, and twice as large."""
    said = camera_path(model, views).cam_to_world[0]
    world = torch.eye(4)
    world[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    world[:3, 3] = torch.tensor([1.0, 2, 3])
    true = said.clone()
    true[..., :3, 3] *= 2
    posed = [
        View(view.image, cam_to_world=world @ true[:, number])
        for number, view in enumerate(views.views)
    ]
    path = camera_path(model, views_of(posed))
    assert path.rotation_error[0].max() < 0.1
    assert path.translation_error[0].max() < 0.1
    assert path.rotation_error[1].min() > 0.5


def test_with_an_edit_the_path_ends_at_the_edited_output(model: VGGT, views: Views) -> None:
    edits = [HeadAblation("dec*.0.global_attn"), Skip("cam2.1.global_attn")]
    output = trace(model, views, edits=edits).output
    assert output is not None
    assert output.cameras is not None
    poses = output.cameras.cam_to_world
    path = camera_path(model, views, edits=edits)
    expected = invert_rigid(poses[:, 0]) @ poses[:, 2]
    torch.testing.assert_close(path.cam_to_world[-1, :, 2], expected)
    clean = camera_path(model, views).cam_to_world
    assert not torch.allclose(path.cam_to_world[-1], clean[-1])
