import pytest
import torch

from prob3r.geometry import intrinsics_from_pointmap, pose_of_pointmap, rotation_angle, unproject
from prob3r.geometry.estimation import PNP_PIXELS
from prob3r.rooms import Rooms


def test_an_image_of_any_size_is_explained_by_the_camera_that_saw_it() -> None:
    """Large images are thinned out for PnP, which must not look like outliers."""
    generator = torch.Generator().manual_seed(0)
    for size in (48, 320):
        matrix = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
        depth = 2 + torch.rand(1, size, size, generator=generator)
        found = pose_of_pointmap(unproject(depth, matrix[None])[0], matrix)
        assert found is not None
        assert found.share > 0.99


def test_cameras_are_read_off_true_pointmaps() -> None:
    pair = Rooms("test", size=(32, 48), compile=False).batch([0])
    points = tuple(p.where(v[..., None], torch.nan) for p, v in zip(pair.points, pair.valid))  # noqa: B905

    def intrinsics(known: list[torch.Tensor | None]) -> list[torch.Tensor]:
        sizes = [pair.view1.size, pair.view2.size]
        return intrinsics_from_pointmap(pair.points[0], sizes, known, pair.valid[0].float())

    known1, known2 = intrinsics([pair.view1.intrinsics, pair.view2.intrinsics])
    assert pair.view1.intrinsics is not None
    assert pair.view2.intrinsics is not None
    assert torch.equal(known1, pair.view1.intrinsics)
    assert torch.equal(known2, pair.view2.intrinsics)

    guessed1, guessed2 = intrinsics([None, None])
    torch.testing.assert_close(guessed1, guessed2)
    torch.testing.assert_close(guessed1, known1, rtol=0.02, atol=0.02)

    pose = pose_of_pointmap(points[1][0], known2[0])
    assert pose is not None
    true = pair.view2_to_view1[0]
    assert rotation_angle((true[:3, :3].mT @ pose.cam_to_world[:3, :3])[None]) < 0.1
    torch.testing.assert_close(pose.cam_to_world[:3, 3], true[:3, 3], atol=1e-2, rtol=1e-2)


def test_pnp_uses_a_bounded_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def count(points: object, matrix: object, valid: torch.Tensor, **_: object) -> None:
        used.append(int(valid.sum()))

    monkeypatch.setattr("prob3r.geometry.estimation.pnp_pose", count)
    for size in ((32, 32), (384, 512), (1000, 1000)):
        pose_of_pointmap(torch.zeros(*size, 3), torch.eye(3))
    assert used[0] == 32 * 32
    assert all(PNP_PIXELS / 2 < n < 1.5 * PNP_PIXELS for n in used[1:])
