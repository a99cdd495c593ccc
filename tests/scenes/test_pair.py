import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from prob3r import scenes
from prob3r.errors import Prob3rError
from prob3r.geometry import project
from prob3r.models import DUSt3R, DUSt3RConfig
from prob3r.scenes import Framing, Pair, View, stack

PAIRS = Path(scenes.__file__).parent / "pairs"
LONG, SQUARE = Framing(512, "long"), Framing(224, "square")


def view(batch: int = 2, z: float = 2.0, x: float = 0.0, size: tuple[int, int] = (3, 4)) -> View:
    """A wall at depth z, seen by a camera that looks along z from (x, 0, 0)."""
    intrinsics = torch.tensor([[2.0, 0.0, 1.5], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    pose = torch.eye(4)
    pose[0, 3] = x
    return View(
        image=torch.rand(batch, 3, *size) * 2 - 1,
        intrinsics=intrinsics.expand(batch, 3, 3),
        cam_to_world=pose.expand(batch, 4, 4),
        depth=torch.full((batch, *size), z),
    )


def pair(batch: int = 2, z: float = 2.0) -> Pair:
    return Pair(view(batch, z), view(batch, z, x=1.0), tuple(f"{z}/{i}" for i in range(batch)))


# --- views and batches --------------------------------------------------------------------------


def test_points_are_rays_times_depth():
    points = view().points
    torch.testing.assert_close(points[0, 0, 0], torch.tensor([-1.5, -1.0, 2.0]))
    torch.testing.assert_close(points[1, 2, 3], torch.tensor([1.5, 1.0, 2.0]))


def test_points_of_both_views_are_in_camera_1s_frame():
    first, second = pair().points
    torch.testing.assert_close(second, first + torch.tensor([1.0, 0.0, 0.0]))
    swapped = pair().swap()
    torch.testing.assert_close(swapped.points[1], first - torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(swapped.view2_to_view1[0, :3, 3], torch.tensor([-1.0, 0.0, 0.0]))


def test_a_common_motion_of_both_cameras_changes_nothing():
    motion = torch.eye(4)
    c, s = math.cos(0.3), math.sin(0.3)
    motion[:2, :2] = torch.tensor([[c, -s], [s, c]])
    motion[:3, 3] = torch.tensor([3.0, -1.0, 2.0])
    still = pair()
    moved = Pair(
        *(
            View(v.image, v.intrinsics, motion @ v.cam_to_world, v.depth)
            for v in (still.view1, still.view2)
        )
    )
    torch.testing.assert_close(moved.points[1], still.points[1], atol=1e-5, rtol=0)


def test_the_mask_is_where_depth_is_known_unless_one_is_given():
    hole = view().depth.clone()
    hole[0, 1, 2] = 0
    given = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks = Pair(View(view().image, depth=hole), View(view().image, valid=given)).valid
    assert torch.equal(masks[0], hole > 0)
    assert masks[1] is given


def test_what_is_unknown_says_so():
    bare = View(torch.zeros(1, 3, 3, 4))
    both = Pair(bare, bare)
    assert not both.has_poses
    assert not both.has_truth
    for ask, what in (
        (lambda: bare.points, "pointmap"),
        (lambda: both.view2_to_view1, "relative pose"),
        (lambda: both.valid, "valid mask"),
    ):
        with pytest.raises(Prob3rError, match=what):
            ask()


def test_truth_needs_both_views():
    whole = pair()
    assert whole.has_poses
    assert whole.has_truth
    half = Pair(whole.view1, View(whole.view2.image, cam_to_world=whole.view2.cam_to_world))
    assert half.has_poses
    assert not half.has_truth


def test_rows_of_a_batch():
    batch = pair(5)
    assert len(batch) == 5
    for index, rows in ((3, [3]), (-1, [4]), ([4, 0], [4, 0]), (slice(1, 4, 2), [1, 3])):
        some = batch[index]
        assert some.names == tuple(f"2.0/{i}" for i in rows)
        assert torch.equal(some.view2.image, batch.view2.image[rows])
        assert some.view1.labels is None


def test_stack_undoes_indexing():
    batch = pair(3)
    again = stack([batch[i] for i in range(3)])
    assert again.names == batch.names
    assert torch.equal(again.view1.image, batch.view1.image)
    assert torch.equal(again.view2.cam_to_world, batch.view2.cam_to_world)


def test_stack_leaves_out_what_one_pair_lacks():
    bare = Pair(View(view(1).image), view(1))
    both = stack([pair(2), bare])
    assert len(both) == 3
    assert both.view1.depth is None
    assert both.view2.depth.shape == (3, 3, 4)


def test_stack_refuses_none_and_different_sizes():
    other = Pair(view(1, size=(4, 4)), view(1, size=(4, 4)))
    for pairs in ([], [pair(), other]):
        with pytest.raises(Prob3rError, match="one image size"):
            stack(pairs)


def test_map_and_to_reach_every_tensor():
    doubled = pair().map(lambda t: t * 2)
    assert torch.equal(doubled.view1.depth, pair().view1.depth * 2)
    assert doubled.view1.labels is None
    assert doubled.names == pair().names
    assert pair().to("meta").view2.intrinsics.device.type == "meta"


# --- photographs --------------------------------------------------------------------------------


def test_books_for_both_kinds_of_model():
    for framing, size in ((LONG, (384, 512)), (SQUARE, (224, 224))):
        books = Pair.from_folder(PAIRS / "books", framing)
        assert len(books) == 1
        assert books.names == ("books",)
        assert books.view1.size == books.view2.size == size
        assert not books.has_poses
        assert -1 <= books.view1.image.min() < -0.5 < 0.5 < books.view1.image.max() <= 1


def test_from_images_is_from_folder_without_the_truth():
    folder = PAIRS / "books"
    known = Pair.from_folder(folder, SQUARE)
    images = Pair.from_images([str(folder / "view1.jpg"), folder / "view2.jpg"], SQUARE)
    assert torch.equal(images.view1.image, known.view1.image)
    assert torch.equal(images.view2.image, known.view2.image)
    assert images.names == ("view1, view2",)


def test_aloe_is_consistent_after_framing():
    """Each point of view 1, projected into view 2, shows the colour that it has in view 1."""
    for framing in (LONG, SQUARE):
        aloe = Pair.from_folder(PAIRS / "aloe", framing)
        assert aloe.has_poses
        assert not aloe.has_truth
        assert aloe.view2.depth is None
        assert 0.9 < aloe.view1.valid.float().mean() < 1
        in_camera_2 = aloe.view1.points - torch.tensor([0.16, 0.0, 0.0])
        pixels = project(in_camera_2, aloe.view2.intrinsics)

        def error(shift: float, aloe: Pair = aloe, pixels: torch.Tensor = pixels) -> float:
            """Mean difference of colour with what is `shift` pixels beside the projection."""
            height, width = aloe.view2.size
            scale = torch.tensor([2 / width, 2 / height])
            grid = (pixels + torch.tensor([shift + 0.5, 0.5])) * scale - 1
            seen = torch.nn.functional.grid_sample(aloe.view2.image, grid, align_corners=False)
            usable = aloe.view1.valid & (grid.abs() < 1).all(-1)
            assert usable.float().mean() > 0.5
            return (seen - aloe.view1.image).abs().mean(1)[usable].mean().item()

        assert error(0) < 0.7 * min(error(-3), error(3))


def test_a_model_frames_its_own_photographs():
    model = DUSt3R(DUSt3RConfig((96, 96), 16, 8, 1, 1, 8, 1, 1))
    books = Pair.from_folder(PAIRS / "books", model)
    assert books.view1.size == (96, 96)
    output = model(*books.images)
    assert output.points[1].shape == (1, 96, 96, 3)


def test_one_photograph_may_be_both_views():
    path = PAIRS / "books" / "view1.jpg"
    twice = Pair.from_images([path, path], LONG)
    assert torch.equal(twice.view1.image, twice.view2.image)


def test_views_may_differ_in_size(tmp_path):
    Image.new("RGB", (300, 400)).save(tmp_path / "tall.png")
    Image.new("RGB", (400, 300)).save(tmp_path / "wide.png")
    mixed = Pair.from_images([tmp_path / "tall.png", tmp_path / "wide.png"], LONG)
    assert (mixed.view1.size, mixed.view2.size) == ((512, 384), (384, 512))


def test_a_view_carries_its_pose():
    pose = torch.eye(4)[None]
    image = View.from_image(PAIRS / "books" / "view1.jpg", SQUARE, cam_to_world=pose)
    assert image.cam_to_world is pose
    assert image.depth is None
    assert image.labels is None
