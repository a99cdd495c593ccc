import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prob3r import scenes
from prob3r.errors import Prob3rError
from prob3r.scenes.folder import read_folder
from prob3r.scenes.framing import Framing
from prob3r.scenes.views import Pair

PAIRS = Path(scenes.__file__).parent / "pairs"
K = [[100.0, 0.0, 47.5], [0.0, 100.0, 31.5], [0.0, 0.0, 1.0]]
IDENTITY = torch.eye(4).tolist()


@pytest.fixture
def folder(tmp_path):
    """A folder of two grey photographs, as a writer of its `pair.json`."""
    inside = tmp_path / "pair"
    inside.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (96, 64), 128).save(inside / name)

    def write(**view1) -> Path:
        content = {"views": [{"image": "a.png", **view1}, {"image": "b.png"}]}
        (inside / "pair.json").write_text(json.dumps(content))
        return inside

    return write


def refused(folder: Path, match: str) -> None:
    with pytest.raises(Prob3rError, match=match) as error:
        read_folder(folder)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    assert message.endswith(".")


def test_aloe_has_cameras_and_the_depth_of_view_1():
    first, second = read_folder(PAIRS / "aloe")
    assert first.depth.shape == (555, 641)
    assert second.depth is None
    known = first.depth[first.depth > 0]
    assert 0.5 < known.min() < known.max() < 10
    torch.testing.assert_close(second.cam_to_world[0, :3, 3], torch.tensor([0.16, 0.0, 0.0]))


def test_books_has_photographs_only():
    for entry in read_folder(str(PAIRS / "books")):
        assert entry.image.is_file()
        assert entry[1:] == (None, None, None)


def test_depth_is_in_metres_and_null_is_unknown(folder):
    millimetres = np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) * 10
    path = folder(depth="depth.png", intrinsics=None, cam_to_world=None, note="a note")
    Image.fromarray(millimetres).save(path / "depth.png")
    entry = read_folder(path)[0]
    torch.testing.assert_close(entry.depth, torch.from_numpy(millimetres / 1000).float())
    assert entry.intrinsics is None


def test_a_byte_order_mark_does_no_harm(folder):
    file = folder() / "pair.json"
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert read_folder(file.parent)[0].image == file.parent / "a.png"


def test_a_file_in_a_folder_within_is_inside(folder):
    path = folder(image="within/c.png")
    (path / "within").mkdir()
    (path / "a.png").rename(path / "within" / "c.png")
    assert read_folder(path)[0].image.is_file()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "null",
        "{}",
        '{"views": 3}',
        '{"views": []}',
        '{"views": [{}]}',
        '{"views": [{}, 1]}',
        '{"views": [{}, {}, 3]}',
        "[" * 100_000,
    ],
)
def test_what_holds_no_two_views_is_refused(folder, text):
    path = folder()
    (path / "pair.json").write_text(text)
    refused(path, "pair.json (cannot be read as JSON|must hold)")


def test_what_is_no_text_is_refused(folder):
    path = folder()
    (path / "pair.json").write_bytes(b"\xff\xfe\x00\x80")
    refused(path, "cannot be read as JSON")


def test_a_folder_without_pair_json_is_refused(tmp_path):
    refused(tmp_path, "pair.json does not exist")
    refused(tmp_path / "missing", "pair.json does not exist")


def test_an_unknown_key_is_refused(folder):
    refused(folder(intrinsic=K), "view 1: 'intrinsic' is not a key; the keys are image, intrinsics")


@pytest.mark.parametrize("key", ["image", "depth"])
@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../y", "link", "a\0", 7])
def test_paths_stay_inside_the_folder(folder, key, name):
    path = folder(**{key: name})
    Image.new("L", (96, 64)).save(path.parent / "secret.png")
    (path / "link").symlink_to(path.parent / "secret.png")
    refused(path, f"view 1: {key} is .* must be the path of a file inside the folder")


def test_a_view_needs_an_image(folder):
    refused(folder(image=None), "view 1: image is None")


def test_a_missing_file_is_named(folder):
    refused(folder(depth="depth.png"), r"depth\.png does not exist")
    with pytest.raises(Prob3rError, match=r"c\.png does not exist"):
        Pair.from_folder(folder(image="c.png"), Framing(96, "long"))


@pytest.mark.parametrize("side", [3, 4])
@pytest.mark.parametrize(
    "value",
    [
        7,
        "K",
        [],
        {},
        [[1, 0], [0, 1]],
        [[1, 0, 0], [0, 1], [0, 0, 1]],
        [["1", "0", "0"]] * 3,
        [[None] * 4] * 4,
        [[float("nan")] * 3] * 3,
        [[float("inf")] * 4] * 4,
        [[1e300] * 3] * 3,
        [[10**400] * 4] * 4,
    ],
)
def test_matrices_of_other_shapes_are_refused(folder, side, value):
    key = {3: "intrinsics", 4: "cam_to_world"}[side]
    refused(folder(**{key: value}), f"view 1: {key} must be {side} rows of {side} finite numbers")


def replaced(matrix: list[list[float]], row: int, column: int, value: float) -> list[list[float]]:
    changed = [list(r) for r in matrix]
    changed[row][column] = value
    return changed


@pytest.mark.parametrize(
    ("row", "column", "value"), [(0, 0, 0), (1, 1, -5), (0, 1, 3), (1, 0, 1), (2, 0, 1), (2, 2, 2)]
)
def test_intrinsics_that_are_no_pinhole_are_refused(folder, row, column, value):
    refused(folder(intrinsics=replaced(K, row, column, value)), "positive focal lengths")


@pytest.mark.parametrize(
    ("row", "column", "value"), [(0, 0, 1.1), (0, 0, -1), (0, 1, 0.1), (3, 0, 1), (3, 3, 2)]
)
def test_poses_that_are_not_rigid_are_refused(folder, row, column, value):
    refused(folder(cam_to_world=replaced(IDENTITY, row, column, value)), "must be rigid")


def test_a_pose_written_with_few_digits_is_rigid_enough(folder):
    pose = [[0.866, -0.5, 0, 3], [0.5, 0.866, 0, -2], [0, 0, 1, 1e4], [0, 0, 0, 1]]
    torch.testing.assert_close(
        read_folder(folder(cam_to_world=pose))[0].cam_to_world[0], torch.tensor(pose)
    )


def test_depth_must_have_16_bits(folder):
    refused(folder(depth="a.png"), "must be a 16-bit grey image")


def test_depth_must_be_an_image(folder):
    refused(folder(depth="pair.json"), "is not an image")
