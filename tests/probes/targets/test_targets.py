"""What each target says of rooms, held to slow readings of its definition and to cases by hand."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    essential,
    fundamental,
    norm_factor,
    project,
    rotation_angle,
    transform,
)
from prob3r.probes.targets import OWN, TARGETS, TRUTH, Goals, Target, target_named
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, Views
from prob3r.scenes.view import View

PATCH = 8
ROWS = 32 // PATCH


@pytest.fixture(scope="module")
def rooms() -> Pair:
    return Rooms("train", (32, 32), compile=False).batch(range(8))


def goals_of(target: Target, views: Views, view: int = 2) -> Goals:
    found = target.goals(views, None, PATCH, (TRUTH,))[view - 1]
    assert found is not None
    return found


def errors_of(target: Target, goals: Goals, predicted: Tensor) -> dict[str, Tensor]:
    true = goals.raw[:, target.columns((TRUTH,), PATCH).of(TRUTH)]
    return target.errors(predicted, true, goals.units[TRUTH], goals.beside)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_truth_itself_has_no_error_and_another_has(target: Target, rooms: Pair) -> None:
    goals = goals_of(target, rooms)
    goals = goals.rows(goals.known)
    assert len(goals.raw) > 4
    assert goals.raw.isfinite().all()
    true = goals.raw[:, target.columns((TRUTH,), PATCH).of(TRUTH)]
    assert true.shape[1] == target.channels * target.pixels(PATCH)
    right, wrong = (errors_of(target, goals, t) for t in (true, true.roll(3, 0)))
    assert tuple(right) == tuple(wrong) == target.measures
    first = target.measures[0]
    assert right[first].nan_to_num().max() < 1e-2
    assert wrong[first].nanmean() > 20 * right[first].nanmean() + 1e-3
    losses = [float(target.loss(t, goals)) for t in (true, true.roll(3, 0))]
    assert 0 <= losses[0] < 1e-6 < losses[1]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_an_answer_is_decoded_whatever_axes_stand_before_it(target: Target) -> None:
    raw = torch.randn(3, 5, target.channels)
    one = target.decode(raw[1, 2])
    torch.testing.assert_close(target.decode(raw)[1, 2], one, atol=1e-4, rtol=1e-4)


def test_views_before_the_first_have_no_goal(rooms: Pair) -> None:
    firsts = {n: t.goals(rooms, None, PATCH, (TRUTH,))[0] is None for n, t in TARGETS.items()}
    assert {name for name, none in firsts.items() if none} == {"pose", "epipolar"}


def test_depth_is_the_logarithm_in_the_unit_of_the_pointmap(rooms: Pair) -> None:
    target, goals = TARGETS["depth"], goals_of(TARGETS["depth"], rooms)
    unit = norm_factor(rooms.points, rooms.valid)
    assert rooms.view2.depth is not None
    patch = rooms.view2.depth[3, PATCH : 2 * PATCH, 2 * PATCH : 3 * PATCH] / unit[3]
    row = 3 * ROWS**2 + ROWS + 2
    assert goals.known[row]
    torch.testing.assert_close(target.decode(goals.raw[row][:, None])[:, 0], patch.flatten())
    twice = errors_of(target, goals, goals.raw + torch.log(torch.tensor(2.0)))
    assert twice[target.measures[0]].tolist() == pytest.approx([0.6931] * len(goals.raw), abs=1e-4)


def test_normals_are_those_of_a_tilted_plane() -> None:
    """z = 2 + x: the normal leans by 45 degrees to the left, towards the camera."""
    intrinsics = torch.tensor([[[32.0, 0, 15.5], [0, 32, 15.5], [0, 0, 1]]])
    x = (torch.arange(32) - 15.5) / 32
    depth = (2 / (1 - x)).expand(1, 32, 32)
    view = View(torch.zeros(1, 3, 32, 32), intrinsics, torch.eye(4)[None], depth)
    goals = goals_of(TARGETS["normal"], Pair(view, view))
    assert goals.known.all()
    expected = torch.tensor([0.5**0.5, 0, -(0.5**0.5)]).expand(ROWS**2, 3)
    torch.testing.assert_close(goals.raw, expected, atol=1e-3, rtol=0)
    (angle,) = errors_of(TARGETS["normal"], goals, goals.raw * torch.tensor([0.0, 0, 3])).values()
    assert angle.tolist() == pytest.approx([45] * ROWS**2, abs=0.1)


def test_a_view_that_is_seen_by_itself_matches_itself(rooms: Pair) -> None:
    itself = rooms.with_views(view2=rooms.view1)
    seen, match = (goals_of(TARGETS[name], itself) for name in ("covisibility", "match"))
    assert seen.raw[seen.known].eq(1).all()
    y, x = torch.meshgrid(torch.arange(ROWS), torch.arange(ROWS), indexing="ij")
    own = torch.stack((x, y), -1).flatten(0, 1).repeat(len(rooms), 1) + 1 / 16
    torch.testing.assert_close(match.raw[match.known], own[match.known], atol=1e-3, rtol=0)


def test_co_visibility_and_matches_agree_with_the_patches_of_geometry(rooms: Pair) -> None:
    found = rooms.patch_matches(PATCH)
    seen, match = (goals_of(TARGETS[name], rooms) for name in ("covisibility", "match"))
    visible = found.visible.flatten()
    assert torch.equal(seen.raw[:, 0] > 0, visible)
    assert torch.equal(match.known, visible)
    column, row = (match.raw[visible] + 0.5).floor().unbind(1)
    assert torch.equal(row * ROWS + column, found.match.flatten()[visible].float())
    swapped = [
        goals_of(TARGETS["match"], views, v).raw for views, v in ((rooms, 1), (rooms.swap(), 2))
    ]
    torch.testing.assert_close(*swapped)


def test_a_match_is_near_within_one_patch() -> None:
    target = TARGETS["match"]
    true = torch.tensor([[3.0, 2.0]]).repeat(3, 1)
    found = true + torch.tensor([[0.6, 0.8], [1.4, 0], [0, -1.6]])
    distance, near = target.errors(found, true, torch.ones(3)).values()
    assert distance.tolist() == pytest.approx([1, 1.4, 1.6])
    assert near.tolist() == [1, 1, 0]


def test_all_patches_of_an_object_say_where_it_is(rooms: Pair) -> None:
    target = TARGETS["instance"]
    goals = goals_of(target, rooms)
    unit = norm_factor(rooms.points, rooms.valid)
    row = int(goals.known.nonzero()[5])
    scene, place = divmod(row, ROWS**2)
    at = [side * PATCH + PATCH // 2 for side in divmod(place, ROWS)]
    assert rooms.view2.labels is not None
    label = rooms.view2.labels[scene, at[0], at[1]]
    assert label > 0
    points = [
        points[scene][valid[scene] & (view.labels[scene] == label)]  # type: ignore[index]
        for view, points, valid in zip(rooms.views, rooms.points, rooms.valid, strict=True)
    ]
    centre = torch.cat(points).mean(0) / unit[scene]
    torch.testing.assert_close(target.decode(goals.raw[row]), centre, atol=1e-4, rtol=1e-4)


def test_a_patch_belongs_to_the_object_with_the_nearest_centre() -> None:
    target = TARGETS["instance"]
    beside = torch.full((2, 64, 3), torch.nan)
    beside[:, 3], beside[:, 7] = torch.tensor([1.0, 0, 2]), torch.tensor([0.0, 0, 2])
    from prob3r.models.heads import compress_points

    true = compress_points(torch.tensor([[1.0, 0, 2]])).repeat(2, 1)
    found = compress_points(torch.tensor([[0.6, 0, 2], [0.4, 0, 2]]))
    wrong, distance = target.errors(found, true, torch.ones(2), beside).values()
    assert wrong.tolist() == [0, 1]
    assert distance.tolist() == pytest.approx([0.4, 0.6], abs=1e-4)


def test_the_poses_own_numbers_stand_for_it(rooms: Pair) -> None:
    target, goals = TARGETS["pose"], goals_of(TARGETS["pose"], rooms)
    pose = rooms.view2_to_view1
    decoded = target.decode(3 * goals.raw)
    torch.testing.assert_close(decoded[:, :, :3], pose[:, :3, :3], atol=1e-4, rtol=0)
    identity = torch.cat((torch.eye(3).flatten(), torch.zeros(3))).expand(len(rooms), -1)
    rotation, translation = errors_of(target, goals, identity).values()
    torch.testing.assert_close(rotation, rotation_angle(pose[:, :3, :3]), atol=1e-3, rtol=0)
    assert translation.tolist() == [180] * len(rooms)


def test_epipolar_matrices_act_on_normalised_positions(rooms: Pair) -> None:
    """Of any point in front of both cameras, by projecting it into them."""
    goals = goals_of(TARGETS["epipolar"], rooms)
    pose = rooms.view2_to_view1
    local = torch.rand(len(rooms), 50, 3) + torch.tensor([-0.5, -0.5, 2.0])
    ones = []
    for points, view in ((transform(local, pose), rooms.view1), (local, rooms.view2)):
        assert view.intrinsics is not None
        pixels = (project(points, view.intrinsics) - 15.5) / 16
        ones.append(torch.cat((pixels, torch.ones_like(pixels[..., :1])), -1))
    matrix = goals.raw.unflatten(1, (3, 3))
    product = torch.einsum("bni,bij,bnj->bn", ones[0], matrix, ones[1])
    scale = ones[0].norm(dim=-1) * ones[1].norm(dim=-1)
    assert (product / scale).abs().max() < 1e-4
    torch.testing.assert_close(goals.raw.norm(dim=1), torch.ones(len(rooms)))
    decoded = TARGETS["epipolar"].decode(torch.randn(4, 9))
    assert torch.linalg.det(decoded).abs().max() < 1e-5


def test_sampson_distances_are_in_pixels(rooms: Pair) -> None:
    """Those of a wrong matrix are the same on pixels, by the function of geometry."""
    from prob3r.geometry import sampson_distance

    target, goals = TARGETS["epipolar"], goals_of(TARGETS["epipolar"], rooms)
    assert goals.beside is not None
    intrinsics = [view.intrinsics for view in rooms.views]
    other = fundamental(essential(rooms.view2_to_view1.roll(1, 0)), *intrinsics)  # type: ignore[arg-type]
    shift = torch.tensor([[16.0, 0, 15.5], [0, 16, 15.5], [0, 0, 1]])
    wrong = (shift.T @ other @ shift).flatten(1)
    (found,) = errors_of(target, goals, wrong).values()
    pixels = goals.beside * 16 + 15.5
    slow = torch.stack(
        [
            sampson_distance(other[i : i + 1], each[None, :, :2], each[None, :, 2:]).mean()
            for i, row in enumerate(pixels)
            for each in (row[~row[:, 0].isnan()],)
        ]
    )
    torch.testing.assert_close(found[goals.known], slow[goals.known], rtol=1e-2, atol=1e-3)


def test_what_is_not_known_is_one_sentence(rooms: Pair) -> None:
    bare = rooms.with_each(lambda view: replace(view, labels=None))
    with pytest.raises(Prob3rError, match="do not say which object a pixel shows"):
        goals_of(TARGETS["instance"], bare)
    with pytest.raises(Prob3rError, match="Probes of the depth are fitted to the truth alone"):
        TARGETS["depth"].goals(rooms, None, PATCH, (OWN,))
    photographs = rooms.with_each(lambda view: View(view.image))
    for name in TARGETS.keys() - {"pointmap"}:
        with pytest.raises(Prob3rError, match=rf"The {name} of these scenes is not known: they"):
            goals_of(TARGETS[name], photographs)
    with pytest.raises(Prob3rError, match="There is no target 'colour'; give pointmap, depth, "):
        target_named("colour")
