import pytest
import torch

from prob3r import geometry
from prob3r.errors import Prob3rError
from tests.checks import every
from tests.geometry.conftest import FAR, HALF_SIDE, NEAR, SIZE, Scene, square_and_wall


def truly_visible(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """By tracing the ray from camera 1 to each point; and where that is clear-cut."""
    points = scene.points2
    pixels = geometry.project(points, scene.intrinsics)
    inside = ((pixels > -0.5) & (pixels < SIZE - 0.5)).all(dim=-1)
    crossing = (points[..., :2] / points[..., 2:] * NEAR).abs().amax(dim=-1)
    hidden = (points[..., 2] > NEAR) & (crossing <= HALF_SIDE)
    one_pixel = NEAR / scene.intrinsics[0, 0, 0]
    return inside & ~hidden, (crossing - HALF_SIDE).abs() > one_pixel


def test_the_square_hides_part_of_the_wall(scene):
    visible = geometry.covisible(scene.truth)
    expected, clear = truly_visible(scene)
    assert torch.equal(visible[clear], expected[clear])
    on_wall = scene.depth2 == FAR
    assert (~visible & on_wall & ~expected).any()  # something was hidden
    assert every(visible[scene.depth2 == NEAR])


def test_matches_move_by_the_disparity(scene):
    pixels, visible = geometry.pixel_matches(scene.truth)
    disparity = pixels - geometry.pixel_grid(SIZE, SIZE)
    focal, baseline = scene.intrinsics[0, 0, 0], scene.pose2_to_1[0, 0, 3]
    assert torch.allclose(disparity[..., 0], focal * baseline / scene.depth2, atol=1e-4)
    assert torch.allclose(disparity[..., 1], torch.tensor(0.0), atol=1e-4)
    assert not visible[pixels[..., 0] > SIZE - 0.5].any()


def test_a_view_sees_all_of_itself():
    scene = square_and_wall(baseline=0)
    assert geometry.overlap(scene.truth).tolist() == [1]
    match, visible = geometry.patch_matches(scene.truth, patch=4)
    assert visible.all()
    assert match[0].tolist() == list(range(100))


def test_overlap_counts_valid_pixels_of_view_2_only(scene):
    visible = geometry.covisible(scene.truth)
    left = scene.truth.valid2.clone()
    left[..., SIZE // 2 :] = False
    overlap = geometry.overlap(scene.truth._replace(valid2=left))
    assert overlap.item() == pytest.approx(visible[..., : SIZE // 2].float().mean().item())
    none = scene.truth._replace(valid2=torch.zeros_like(left))
    assert geometry.overlap(none).tolist() == [0]


def test_nothing_is_visible_where_view_1_knows_no_depth(scene):
    known = scene.truth.valid1.clone()
    known[:, 10:20] = False
    holes = scene.truth.depth1.where(known, 0)
    visible = geometry.covisible(scene.truth._replace(depth1=holes, valid1=known))
    before = geometry.covisible(scene.truth)
    assert not visible[:, 10:20].any()
    assert torch.equal(visible[:, 20:], before[:, 20:])


def test_steep_planes_are_visible_from_elsewhere():
    """A floor seen at grazing angles, where depth changes by 20 % from row to row."""
    intrinsics = torch.tensor([[[40.0, 0, 19.5], [0, 40, -4], [0, 0, 1]]])
    rows = geometry.unproject(torch.ones(1, SIZE, SIZE), intrinsics)[..., 1]
    depth = 1.0 / rows  # the floor y = 1
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = torch.tensor([0.11, 0, 0.13])
    points2 = geometry.transform(geometry.unproject(depth, intrinsics), pose)
    valid = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    pixels, visible = geometry.pixel_matches(
        geometry.MatchTruth(points2, valid, depth, valid, intrinsics)
    )
    inner = ((pixels >= 0) & (pixels <= SIZE - 1)).all(dim=-1)
    assert inner.float().mean() > 0.8
    assert every(visible[inner])


def test_points_behind_camera_1_are_not_visible(scene):
    behind = scene.truth._replace(points2=-scene.truth.points2)
    pixels, visible = geometry.pixel_matches(behind)
    assert pixels.isnan().all()
    assert not visible.any()


@pytest.mark.parametrize("patch", [1, 4, 5, 8])
def test_patch_match_holds_the_projection_of_the_central_pixel(scene, patch):
    match, visible = geometry.patch_matches(scene.truth, patch=patch)
    pixels, pixel_visible = geometry.pixel_matches(scene.truth)
    cols = SIZE // patch
    for n in range(cols * cols):
        row, col = (patch * i + patch // 2 for i in divmod(n, cols))
        assert visible[0, n] == pixel_visible[0, row, col]
        if visible[0, n]:
            x, y = pixels[0, row, col].tolist()
            assert match[0, n] == int((y + 0.5) // patch) * cols + int((x + 0.5) // patch)


def test_views_of_different_size(scene):
    truth = scene.truth
    low = truth._replace(points2=truth.points2[:, :16], valid2=truth.valid2[:, :16])
    match, visible = geometry.patch_matches(low, patch=8)
    full_match, full_visible = geometry.patch_matches(truth, patch=8)
    assert torch.equal(match, full_match[:, :10])
    assert torch.equal(visible, full_visible[:, :10])


def test_views_must_be_whole_patches(scene):
    with pytest.raises(Prob3rError, match="40x40 pixels"):
        geometry.patch_matches(scene.truth, patch=7)


def test_a_batch_is_as_its_pairs_one_by_one():
    scenes = [square_and_wall(baseline) for baseline in (0.1, 0.5, 0.9)]
    batch = [torch.cat(parts) for parts in zip(*(scene.truth for scene in scenes), strict=True)]
    together = geometry.patch_matches(geometry.MatchTruth(*batch), patch=4)
    for i, scene in enumerate(scenes):
        alone = geometry.patch_matches(scene.truth, patch=4)
        assert torch.equal(together.match[i : i + 1], alone.match)
        assert torch.equal(together.visible[i : i + 1], alone.visible)
