"""How the views of a scene relate, by hand."""

import math

import torch

from prob3r.geometry import central_intrinsics, transform, unproject
from prob3r.measures.attention import AttentionRecords
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.measures.views import ViewRelations, disagreeing, fit, overlaps
from prob3r.models import VGGT, VGGTConfig, random
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import views_of

PATCH, SIDE = 4, 16
SHAPE = VGGTConfig(
    image_size=(28, 28), patch=14, width=16, depth=4, heads=2, registers=1, enc_depth=0,
    head_blocks=(0, 1, 2, 3), features=8, channels=(8, 8, 8, 8), cam_depth=1, cam_heads=2,
)  # fmt: skip


def wall(shift: float, depth: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A camera that stands `shift` to the right and sees a wall: its pointmap and its pose."""
    focal = torch.tensor([float(SIDE)])
    pose = torch.eye(4)[None].clone()
    pose[:, 0, 3] = shift
    local = unproject(torch.full((1, SIDE, SIDE), depth), central_intrinsics(focal, (SIDE, SIDE)))
    return transform(local, pose), pose


def cameras_of(poses: list[torch.Tensor], lost: tuple[int, ...] = ()) -> EstimatedCameras:
    matrix = central_intrinsics(torch.tensor([float(SIDE)]), (SIDE, SIDE))[0]
    inliers = [None if i == 0 or i in lost else 1.0 for i in range(len(poses))]
    return EstimatedCameras((matrix,) * len(poses), torch.stack(poses, 1), tuple(inliers))


def test_views_of_one_wall_overlap_where_they_see_the_same_part() -> None:
    # One camera moves by half of what it sees: its image is 2 wide at a depth of 2.
    points, poses = zip(*(wall(shift) for shift in (0.0, 1.0, 5.0)), strict=True)
    overlap, conflict = overlaps(points, cameras_of(list(poses)), PATCH)
    torch.testing.assert_close(overlap[0, 1], torch.tensor(0.5))
    torch.testing.assert_close(overlap[1, 0], torch.tensor(0.5))
    assert overlap[0, 2] == overlap[2, 0] == 0  # it looks at another part
    assert conflict.nan_to_num(0).eq(0).all()
    assert overlap.diagonal().isnan().all()


def test_a_view_in_the_free_space_of_the_others_fits_least() -> None:
    points, poses = zip(*(wall(0.0, depth) for depth in (2.0, 2.0, 2.0, 1.0)), strict=True)
    overlap, conflict = overlaps(points, cameras_of(list(poses)), PATCH)
    assert conflict[3, :3].tolist() == [1, 1, 1]  # nearer than what the others see there
    assert conflict[:3, 3].tolist() == [0, 0, 0]  # hidden behind it
    found = fit(overlap, conflict)
    # Each of the first three: 4 overlaps with two others in both directions, and 1 conflict.
    torch.testing.assert_close(found, torch.tensor([0.8, 0.8, 0.8, 0.0]))


def test_a_view_whose_camera_is_not_found_is_compared_by_the_others_cameras_alone() -> None:
    points, poses = zip(wall(0.0), wall(0.5), strict=True)
    overlap, _ = overlaps(points, cameras_of(list(poses), lost=(1,)), PATCH)
    assert overlap[0, 1].isnan()
    torch.testing.assert_close(overlap[1, 0], torch.tensor(0.75))


def test_a_fit_is_unknown_where_nothing_is_shared() -> None:
    nothing = torch.zeros(2, 2).fill_diagonal_(torch.nan)
    assert fit(nothing, nothing).isnan().all()


def test_the_view_that_fits_least_disagrees_if_it_is_far_below_the_others() -> None:
    assert disagreeing([0.8, 0.8, 0.3, 0.9]) == 3
    assert disagreeing([0.8, 0.8, 0.41, 0.9]) is None  # more than half of 0.8
    assert disagreeing([0.8, 0.1]) is None  # two views cannot tell which is wrong
    assert disagreeing([0.8, math.nan, 0.3, 0.9]) == 3
    assert disagreeing([0.8, math.nan, 0.3]) is None


def test_attention_by_view_is_the_sum_of_the_map_over_each_views_patches() -> None:
    model = random(SHAPE)
    assert isinstance(model, VGGT)
    images = torch.rand(3, 1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    views = views_of([View(image) for image in images])
    records = AttentionRecords(model, views)
    wanted = [*records.sites(["by_view"]), "dec2.1.global_attn.probs"]
    run = trace(model, views, wanted, output=False, reductions=records.reductions)
    shares = records.by_view(run)
    assert shares.shape == (4, 3, 3)
    # Two special tokens stand before the four patches of each view; only patches ask and are asked.
    probs = torch.Tensor(run["dec2.1.global_attn.probs"])[0, :, 2:].unflatten(-1, (3, 6))
    torch.testing.assert_close(shares[1, 1], probs[..., 2:].sum(-1).mean((0, 1)))
    assert (shares.sum(-1) < 1).all()  # the rest is on special tokens


def test_relations_hold_plain_numbers() -> None:
    points, poses = zip(wall(0.0), wall(0.0), strict=True)
    attention = torch.full((1, 2, 2), 0.5)
    alike = torch.tensor([[1.0, 0.25], [0.25, 1.0]])
    found = ViewRelations.of([0], attention, alike, points, cameras_of(list(poses)), PATCH)
    assert found.similarity == [[1.0, 0.25], [0.25, 1.0]]
    assert found.attention == [[[0.5, 0.5], [0.5, 0.5]]]
    assert found.fit == [1.0, 1.0]
