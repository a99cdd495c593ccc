import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prob3r.data import Pair, View
from prob3r.data.cameras import PNP_PIXELS, camera2, intrinsics
from prob3r.data.framing import Framing
from prob3r.data.rooms import Rooms
from prob3r.data.source import Folders, batches, open_pairs
from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.models import DUSt3R, DUSt3RConfig, random

ALOE = Path(str(files("prob3r.data") / "pairs" / "aloe"))


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 1, 2))


def write_pair(folder: Path, shade: int) -> None:
    folder.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 32), (shade, shade, shade)).save(folder / name)
    views = [{"image": "1.png"}, {"image": "2.png"}]
    (folder / "pair.json").write_text(json.dumps({"views": views}))


class Numbers:
    """Pairs whose images are their own number."""

    def __init__(self, count: int):
        self.count, self.asked = count, list[list[int]]()

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Pair:
        self.asked.append(list(indices))
        view = View(torch.tensor(indices).float()[:, None, None, None].expand(-1, 3, 1, 1))
        return Pair(view, view)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rooms_are_opened_by_split_at_the_models_size(model: DUSt3R, split: str) -> None:
    pairs = open_pairs(f"rooms:{split}", model)
    assert isinstance(pairs, Rooms)
    assert (pairs.split, pairs.size) == (split, (32, 32))


@pytest.mark.parametrize("name", ["rooms", "rooms:", "rooms:all", "nowhere", "", "rooms:test:1"])
def test_names_that_stand_for_nothing_are_refused(
    model: DUSt3R, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:  # the working folder, in which there is no pair
        with pytest.raises(Prob3rError, match="holds no pair"):
            open_pairs(name, model)
    else:
        with pytest.raises(Prob3rError, match=f"There are no pairs '{name}': give rooms:train"):
            open_pairs(name, model)


def test_a_folder_is_one_pair_or_holds_several(model: DUSt3R, tmp_path: Path) -> None:
    for name, shade in (("b", 255), ("a", 0)):
        write_pair(tmp_path / name, shade)
    (tmp_path / "empty").mkdir()
    pairs = open_pairs(str(tmp_path), model)
    assert isinstance(pairs, Folders)
    assert len(pairs) == 2
    batch = pairs.batch([0, 1])
    assert batch.names == ("a", "b")
    assert batch.view1.image[:, 0, 0, 0].tolist() == [-1, 1]
    assert pairs.batch([1]).names == ("b",)
    assert len(open_pairs(str(tmp_path / "a"), model)) == 1
    assert open_pairs(str(ALOE), model).batch([0]).view1.size == (32, 32)


def test_a_folder_without_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match=r"holds no pair: no pair\.json"):
        Folders(tmp_path, Framing(32, "square"))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_batches_cover_the_first_pairs_evenly(there: int, wanted: int, size: int) -> None:
    pairs = Numbers(there)
    seen = [len(pair) for pair in batches(pairs, wanted, size)]
    assert list(chain(*pairs.asked)) == list(range(min(there, wanted)))
    assert max(seen) <= size
    assert max(seen) - min(seen) <= 1
    assert len(seen) == -(-min(there, wanted) // size)


def test_a_lone_pair_is_left_over_by_no_batch() -> None:
    assert [len(pair) for pair in batches(Numbers(100), 33, 32)] == [17, 16]


def test_cameras_are_read_off_true_pointmaps() -> None:
    pair = Rooms("test", size=(32, 48), compile=False).batch([0])
    points = tuple(p.where(v[..., None], torch.nan) for p, v in zip(pair.points, pair.valid))  # noqa: B905
    known1, known2 = intrinsics(pair, pair.points[0], pair.valid[0].float())
    assert pair.view1.intrinsics is not None
    assert pair.view2.intrinsics is not None
    assert torch.equal(known1, pair.view1.intrinsics[0])
    assert torch.equal(known2, pair.view2.intrinsics[0])

    bare = Pair(View(pair.view1.image), View(pair.view2.image))
    guessed1, guessed2 = intrinsics(bare, pair.points[0], pair.valid[0].float())
    torch.testing.assert_close(guessed1, guessed2)
    torch.testing.assert_close(guessed1, known1, rtol=0.02, atol=0.02)

    pose = camera2(points[1], known2)
    assert pose is not None
    true = pair.view2_to_view1[0]
    assert rotation_angle((true[:3, :3].mT @ pose.cam_to_world[:3, :3])[None]) < 0.1
    torch.testing.assert_close(pose.cam_to_world[:3, 3], true[:3, 3], atol=1e-2, rtol=1e-2)


def test_pnp_uses_a_bounded_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def count(points: object, matrix: object, valid: torch.Tensor, **_: object) -> None:
        used.append(int(valid.sum()))

    monkeypatch.setattr("prob3r.data.cameras.pnp_pose", count)
    for size in ((32, 32), (384, 512), (1000, 1000)):
        camera2(torch.zeros(1, *size, 3), torch.eye(3))
    assert used[0] == 32 * 32
    assert all(PNP_PIXELS / 2 < n < 1.5 * PNP_PIXELS for n in used[1:])
