import math
from dataclasses import replace

import pytest
import torch

from prob3r.geometry import norm_factor
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.measures.reference import Points
from prob3r.reliability.check import Check, check_output, find_matches, reprojected
from prob3r.reliability.classical import ClassicalReconstruction
from prob3r.reliability.matchers import SIFT
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, View, Views

OVERLAPPING = 2  # a room whose views share most of what they see


@pytest.fixture(scope="module")
def room() -> Pair:
    return Rooms("validation", (192, 192), compile=False)[OVERLAPPING]


def checked(views: Views, points: Points) -> list[Check]:
    return check_output(
        views, points, EstimatedCameras.of(views, points, torch.ones(points[0].shape[:3])), SIFT
    )


def true_points(room: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    unit = norm_factor(room.points, room.valid)
    return room.points[0] / unit, room.points[1] / unit


def test_a_true_output_agrees_with_the_matches(room: Pair) -> None:
    (found,) = checked(room, true_points(room))
    assert found.view == 2
    assert found.intrinsics_known
    assert found.matches >= found.inliers >= 15
    assert found.agreeing / found.matches > 0.9
    assert found.distance < 1
    assert found.rotation < 2
    assert found.direction < 5
    assert found.near == 6


def test_a_turned_output_does_not(room: Pair) -> None:
    """View 2 is turned by 30 degrees about camera 2, which moves no camera."""
    points1, points2 = true_points(room)
    centre = room.view2_to_view1[0, :3, 3] / norm_factor(room.points, room.valid)
    angle = math.radians(30)
    turn = torch.tensor(
        [
            [math.cos(angle), 0.0, math.sin(angle)],
            [0.0, 1.0, 0.0],
            [-math.sin(angle), 0.0, math.cos(angle)],
        ]
    )
    turned = (points2 - centre) @ turn.T + centre
    (found,) = checked(room, (points1, turned))
    assert found.agreeing / found.matches < 0.2
    assert found.distance > 20
    assert found.rotation == pytest.approx(30, abs=2)


def test_blank_photographs_neither_support_nor_speak_against(room: Pair) -> None:
    views = [replace(view, image=torch.zeros_like(view.image)) for view in room.views]
    (found,) = checked(Pair(*views), true_points(room))
    assert (found.matches, found.inliers, found.agreeing) == (0, 0, 0)
    assert not found.pose_found
    assert math.isnan(found.rotation)
    assert math.isnan(found.distance)
    assert found.to_json()["rotation"] is None


def test_every_view_is_checked_with_view_1(room: Pair) -> None:
    views = Views((*room.views, room.view1))
    points = (*true_points(room), true_points(room)[0])
    second, third = checked(views, points)
    assert (second.view, third.view) == (2, 3)
    assert third.distance < second.distance  # a view and itself


def test_fine_photographs_are_matched_at_the_pixels_of_the_model(room: Pair) -> None:
    """A quarter of the pixels, with the full ones as `fine`: the same matches, at a quarter."""
    small = Rooms("validation", (48, 48), compile=False)[OVERLAPPING]
    views = [
        View(little.image, little.intrinsics, fine=view.image)
        for little, view in zip(small.views, room.views, strict=True)
    ]
    assert room.view1.intrinsics is not None
    assert small.view1.intrinsics is not None
    large = find_matches(room, (room.view1.intrinsics[0],) * 2, SIFT)
    found = find_matches(Pair(*views), (small.view1.intrinsics[0],) * 2, SIFT)
    torch.testing.assert_close(found.pixels1, (large.pixels1 + 0.5) / 4 - 0.5)
    assert found.pose2_to_1 is not None
    assert large.pose2_to_1 is not None
    torch.testing.assert_close(found.pose2_to_1, large.pose2_to_1, atol=1e-3, rtol=0)


def test_points_without_an_image_are_infinitely_far() -> None:
    """Of three pixels one point is 2 pixels off, one behind the camera, one not finite."""
    image = torch.zeros(1, 3, 4, 4)
    pair = Pair(View(image), View(image))
    points = torch.zeros(4, 4, 3)
    points[0, 0] = torch.tensor([0.0, 0.0, 1.0])
    points[0, 1] = torch.tensor([0.0, 0.0, -1.0])
    points[0, 2] = torch.nan
    intrinsics = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 0, 1]])
    pixels2 = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    pixels1 = torch.tensor([[3.0, 1.0]] * 3)
    none = torch.zeros(3, dtype=torch.bool)
    found = ClassicalReconstruction(pixels1, pixels2, none, None, torch.zeros(0, 3))
    assert reprojected(found, pair, points, intrinsics).tolist() == [2.0, math.inf, math.inf]


def test_an_output_without_a_focal_length_has_no_pose_to_compare(room: Pair) -> None:
    behind = tuple(-p for p in true_points(room))
    views = Pair(*(View(view.image) for view in room.views))
    (found,) = checked(views, behind)
    assert not found.intrinsics_known
    assert not found.differs
