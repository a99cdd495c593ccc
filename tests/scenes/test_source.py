import json
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.rooms import Rooms
from prob3r.scenes import Pair, View
from prob3r.scenes.framing import Framing
from prob3r.scenes.readers import CorruptError, Items
from prob3r.scenes.sampling import choose, sample, select
from prob3r.scenes.source import Folders, Subset, batches, open_pairs
from tests.held import Held

ALOE = Path(str(files("prob3r.scenes") / "pairs" / "aloe"))


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


class Mixed(Items):
    """Pairs read one by one, of several kinds, some of them corrupt."""

    def __init__(self, kinds: Sequence[int], corrupt: Sequence[int] = ()):
        self.kinds, self.corrupt = kinds, corrupt

    def __len__(self) -> int:
        return len(self.kinds)

    def read(self, index: int) -> Pair:
        if index in self.corrupt:
            raise CorruptError(f"item {index} is broken.")
        image = torch.full((1, 3, 1, 1 + self.kinds[index] // 2), float(index))
        intrinsics = torch.eye(3)[None] if self.kinds[index] % 2 else None
        return Pair(View(image, intrinsics), View(image), (str(index),))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_rooms_are_opened_by_split_at_the_models_size(model: DUSt3R, split: str) -> None:
    pairs = open_pairs(f"rooms:{split}", model)
    assert isinstance(pairs, Rooms)
    assert (pairs.split, pairs.size) == (split, (32, 32))


@pytest.mark.parametrize("layout", ["rooms", "lookalikes"])
def test_rooms_come_at_the_size_that_is_asked_for(model: DUSt3R, layout: str) -> None:
    pairs = open_pairs(f"{layout}:test@16", model)
    assert isinstance(pairs, Rooms)
    assert (pairs.split, pairs.size) == ("test", (16, 16))
    assert pairs.lookalikes == (layout == "lookalikes")
    framed = open_pairs("rooms:train@48", Framing(64, "long"))
    assert framed.batch([0]).view1.size == (48, 48)


@pytest.mark.parametrize("side", ["20", "0", "-16", "16x16", "", "1.6", "²"])
def test_a_size_that_fits_no_patches_is_refused(model: DUSt3R, side: str) -> None:
    message = f"'rooms:test@{side}' cannot be shown at '{side}' pixels: give a positive multiple "
    message += "of the model's patch, 8, such as rooms:test@64."
    with pytest.raises(Prob3rError, match=re.escape(message)):
        open_pairs(f"rooms:test@{side}", model)


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


def test_no_pairs_give_no_batch() -> None:
    assert list(batches(Subset(Numbers(3), []), 5, 2)) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6))
def test_the_pairs_of_a_batch_are_of_one_kind(kinds: list[int], size: int) -> None:
    seen = list(batches(Mixed(kinds), len(kinds), size))
    numbers = [[int(name) for name in pair.names] for pair in seen]
    assert sorted(chain(*numbers)) == list(range(len(kinds)))
    for pair, held in zip(seen, numbers, strict=True):
        assert len({kinds[number] for number in held}) == 1
        assert len(held) <= size
        assert pair.view1.image[:, 0, 0, 0].tolist() == held
        assert (pair.view1.intrinsics is not None) == (kinds[held[0]] % 2 == 1)


def test_kinds_that_are_mixed_throughout_come_in_full_batches() -> None:
    seen = [len(pair) for pair in batches(Mixed([0, 1] * 20), 40, 8)]
    assert seen == [8, 8, 6, 6, 6, 6]


def test_pairs_that_differ_make_no_batch() -> None:
    with pytest.raises(Prob3rError, match="0, 1 differ in size or in what is known"):
        Mixed([0, 1]).batch([0, 1])
    assert Mixed([1, 0, 1]).batch([0, 2]).view1.intrinsics is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_item_is_skipped_and_named(
    caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    seen = list(batches(Mixed([0] * 300, corrupt=[7, 40, 299]), 300, 64, workers=workers))
    held = [int(name) for pair in seen for name in pair.names]
    assert held == [i for i in range(300) if i not in (7, 40, 299)]
    assert [record.message for record in caplog.records] == [
        f"Skipped: item {i} is broken." for i in (7, 40, 299)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_one_in_a_hundred_corrupt_items_stop_a_run(workers: int) -> None:
    some = batches(Mixed([0] * 299, corrupt=[0, 100, 200]), 299, 64, workers=workers)
    with pytest.raises(Prob3rError, match=r"3 of 299 items are corrupt.*last was: item 200"):
        list(some)
    with pytest.raises(Prob3rError, match="1 of 99 items"):
        select(Mixed([0] * 99, corrupt=[0]), workers=workers)


def test_a_broken_folder_is_a_corrupt_item(model: DUSt3R, tmp_path: Path) -> None:
    for name in "abc":
        write_pair(tmp_path / name, 0)
    (tmp_path / "b" / "2.png").write_bytes(b"")
    pairs = open_pairs(str(tmp_path), model)
    assert pairs.batch([0, 2]).names == ("a", "c")
    with pytest.raises(CorruptError, match=r"2\.png"):
        pairs.batch([1])
    with pytest.raises(Prob3rError, match=r"1 of 3 items are corrupt.*2\.png"):
        list(batches(pairs, 3, 3))


@given(st.integers(1, 1000), st.integers(0, 50), st.integers(0, 3))
def test_a_sample_is_drawn_once_for_a_seed(there: int, wanted: int, seed: int) -> None:
    drawn = sample(Numbers(there), wanted, seed).indices
    assert drawn == sample(Numbers(there), wanted, seed).indices
    assert len(set(drawn)) == len(drawn) == min(there, wanted)
    assert all(0 <= number < there for number in drawn)


def test_samples_differ_by_seed_and_cover_evenly() -> None:
    pairs = Numbers(2**30)
    assert sample(pairs, 5, 0).indices != sample(pairs, 5, 1).indices
    spread = torch.tensor(sample(pairs, 2000, 0).indices).float() / len(pairs)
    assert spread.mean() == pytest.approx(0.5, abs=0.02)
    assert sample(pairs, 5, 7).words == "5 of 1073741824 pairs, drawn with seed 7"
    assert sample(Numbers(5), 9).words == "all 5 pairs"
    three = Rooms("test", size=(8, 8), compile=False, views=3)
    assert sample(three, 2).words.startswith("2 of 1073741824 scenes of 3 views, the first")
    assert sample(Subset(pairs, range(9), "9 easy pairs"), 2).words.startswith("2 of 9 easy pairs,")


def test_a_sample_of_independent_draws_is_the_first_of_them() -> None:
    rooms = Rooms("test", size=(8, 8), compile=False)
    for pairs in (rooms, Subset(rooms, range(100, 200))):
        drawn = sample(pairs, 5, seed=3)
        assert list(drawn.indices) == [0, 1, 2, 3, 4]
        assert drawn.words.startswith(f"5 of {len(pairs)} pairs, the first")
    assert drawn[2].names == ("rooms/test/102",)


def test_a_subset_of_a_subset_asks_for_the_right_pairs() -> None:
    numbers = Numbers(100)
    subset = Subset(Subset(numbers, range(10, 100, 10)), [3, 0, 5])
    assert len(subset) == 3
    assert subset.batch([2, 0]).view1.image.flatten(1)[:, 0].tolist() == [60, 40]
    assert [len(pair) for pair in batches(subset, 3, 2)] == [2, 1]
    assert numbers.asked[-2:] == [[40, 10], [60]]


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_are_selected_by_overlap_and_rotation(workers: int) -> None:
    pair = Rooms("test", size=(16, 16), compile=False).batch(range(40))
    rooms = Subset(Held(pair), range(40))
    overlap, rotation = pair.overlap(), rotation_angle(pair.view2_to_view1[:, :3, :3])
    wanted = (overlap > 0.3) & (overlap < 0.7) & (rotation > 20) & (rotation < 60)
    assert 3 < wanted.sum() < 37
    done: list[tuple[int, int]] = []
    chosen = select(
        rooms, (0.3, 0.7), (20, 60), workers=workers, report=lambda *at: done.append(at)
    )
    assert list(chosen.indices) == wanted.nonzero().flatten().tolist()
    assert chosen.batch([0]).names == (pair.names[chosen.indices[0]],)
    assert done == [(i + 1, 40) for i in range(40)]
    bounds = "with overlap 0.3 to 0.7 and rotation 20 to 60 degrees"
    assert chosen.words == f"{len(chosen)} pairs {bounds} among all 40 pairs"
    assert len(select(chosen)) == len(chosen)


def test_pairs_are_chosen_at_random_until_there_are_enough() -> None:
    pair = Rooms("test", size=(16, 16), compile=False).batch(range(40))
    rotation = rotation_angle(pair.view2_to_view1[:, :3, :3])
    wanted = set(((rotation > 20) & (rotation < 60)).nonzero().flatten().tolist())
    order = list(sample(Held(pair), 40, seed=5).indices)
    found = choose(Held(pair), 4, rotation=(20, 60), seed=5)
    hits = [number for number in order if number in wanted][:4]
    assert [order[i] for i in found.indices] == hits
    looked = order.index(hits[-1]) + 1
    assert found.words == (
        f"4 pairs with rotation 20 to 60 degrees among the first {looked} of all 40 pairs in an "
        "order drawn with seed 5"
    )
    assert choose(Held(pair), 4, seed=5).words == "4 of 40 pairs, drawn with seed 5"
    with pytest.raises(Prob3rError, match="There are 0 pairs with overlap 2 to 3 among"):
        choose(Held(pair), 4, overlap=(2, 3))


def test_endless_pairs_are_sampled_before_they_are_selected() -> None:
    with pytest.raises(Prob3rError, match="pairs are too many to look at each; take a sample"):
        select(Rooms("test", size=(8, 8), compile=False))


def test_rooms_for_a_framing_are_as_its_square_photographs() -> None:
    assert open_pairs("rooms:test", Framing(64, "square")).batch([0]).view1.size == (64, 64)
    assert open_pairs("rooms:test", Framing(64, "long")).batch([0]).view1.size == (48, 64)
