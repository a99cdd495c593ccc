"""The camera path: what a camera head says after every block, by hand."""

import torch

from prob3r.geometry import invert_rigid
from prob3r.measures.camera_path import CameraPath
from prob3r.models import VGGT, Cameras, DUSt3R, DUSt3RConfig, random
from prob3r.runs.edits import HeadAblation, Skip
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import views_of
from tests.measures.test_views import SHAPE


def turned(degrees: float, shift: float) -> torch.Tensor:
    """A pose turned about y and moved along x."""
    angle = torch.deg2rad(torch.tensor(degrees))
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = angle.cos()
    pose[0, 2], pose[2, 0], pose[0, 3] = angle.sin(), -angle.sin(), shift
    return pose


def three(model: VGGT):
    images = torch.rand(3, 1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return views_of([View(image) for image in images])


def test_after_the_last_block_the_path_is_at_the_output_cameras() -> None:
    model = random(SHAPE)
    views = three(model)
    for edits in ((), [HeadAblation("dec*.1.global_attn")], [Skip("cam2.1.global_attn")]):
        output = trace(model, views, edits=edits).output
        assert output is not None
        assert output.cameras is not None
        path = CameraPath.of(model, views, edits)
        assert path is not None
        assert path.poses.shape == (4, 3, 4, 4)
        stated = output.cameras.cam_to_world[0]
        torch.testing.assert_close(path.poses[-1], invert_rigid(stated[:1]) @ stated)
        assert not torch.allclose(path.poses[0], path.poses[-1])


class TwoBlocks(DUSt3R):
    """A model of two blocks whose camera head says what it was told."""

    early = "It was told."
    said = (
        torch.stack([turned(10, 1), turned(30, 2)]),
        torch.stack([turned(10, 1), turned(50, 1)]),
    )

    def at_blocks(self, blocks, *images, tap=None):
        raise NotImplementedError

    def cameras_at_blocks(self, blocks, *images, tap=None):
        return (Cameras(self.said[block][None]) for block in blocks)


PAIR_SHAPE = DUSt3RConfig((16, 16), 8, 16, 1, 2, 16, 2, 2)


def test_poses_are_stated_in_the_frame_of_camera_1_and_measured_against_others() -> None:
    path = CameraPath.of(TwoBlocks(PAIR_SHAPE), views_of([View(torch.zeros(1, 3, 16, 16))] * 2))
    assert path is not None
    torch.testing.assert_close(path.poses[:, 0], torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(path.poses[0, 1, :3, :3], turned(20, 0)[:3, :3])
    # Camera 2 stands 1 along the world's x, which camera 1 sees turned by 10 degrees.
    torch.testing.assert_close(path.poses[0, 1, :3, 3], turned(-10, 0)[:3, 0])
    rotation, direction = path.errors(torch.stack([torch.eye(4), turned(20, 1)]))
    torch.testing.assert_close(rotation[:, 1], torch.tensor([0.0, 20.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(direction[0, 1], torch.tensor(10.0), atol=0.01, rtol=0)
    assert rotation[:, 0].isnan().all()
    assert direction[1, 1] == 180  # it stands where camera 1 does


def test_a_model_without_a_camera_head_has_no_path() -> None:
    views = views_of([View(torch.zeros(1, 3, 16, 16))] * 2)
    assert CameraPath.of(random(PAIR_SHAPE), views) is None
