"""Scenes of several views: from a recording written from a room, and from rooms."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.scenes import Pair, Views
from prob3r.scenes.framing import Framing
from prob3r.scenes.readers import SevenScenes
from prob3r.scenes.readers.sets import sets_by_covisibility, sets_by_names, sets_by_stride
from prob3r.scenes.sampling import sample
from prob3r.scenes.several import open_views
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Subset, batches
from tests.scenes.readers.sequence import write_sequence

FRAMING = Framing(64, "long")  # keeps frames as they are


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = tmp_path_factory.mktemp("set") / "chess"
    write_sequence(scene, 16)
    return write_sequence(scene, 6, number=2)


@pytest.fixture
def reader(root: Path) -> SevenScenes:
    return SevenScenes(root, FRAMING)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_every_added_view_overlaps_with_one_that_is_in(reader: SevenScenes, views: int) -> None:
    sets = sets_by_covisibility(reader, views)
    known = {frozenset(pair) for pair in reader.pairs.tolist()}
    assert len(sets) > 10
    for number in range(len(sets)):
        frames = sets.sets[number]
        assert len(set(frames)) == views
        for place in range(1, views):
            assert any(frozenset((frames[place], one)) in known for one in frames[:place])
    starts = [tuple(sets.sets[number][:2]) for number in range(len(sets))]
    pairs = [tuple(pair) for pair in reader.pairs.tolist()]
    # Of the second recording two pairs are alone, which no third frame overlaps with.
    alone = [pair for pair in pairs if pair not in starts]
    assert starts == [pair for pair in pairs if pair not in alone]
    assert len(alone) == (0 if views == 2 else 2)


def test_sets_are_drawn_once_for_a_seed(reader: SevenScenes) -> None:
    one, same, other = (list(sets_by_covisibility(reader, 4, seed).sets) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_the_views_of_a_set_are_its_frames(reader: SevenScenes) -> None:
    sets = sets_by_covisibility(reader, 3)
    frames = sets.sets[2]
    views = sets[2]
    assert type(views) is Views
    assert views.names == (", ".join(reader.names[frame] for frame in frames),)
    assert views.scenes == (reader.scenes[frames[0]],)
    assert views.has_truth
    for view, frame in zip(views.views, frames, strict=True):
        assert torch.equal(view.image, reader.view(frame).image)
    assert type(sets_by_covisibility(reader, 2)[0]) is Pair


def test_a_stride_takes_frames_of_one_recording(reader: SevenScenes) -> None:
    sets = sets_by_stride(reader, 3, 4).sets
    assert list(sets) == [(i, i + 4, i + 8) for i in range(8)]  # the second has 6 frames alone
    both = sets_by_stride(reader, 5).sets
    assert len(both) == 12 + 2
    assert all(len({reader.scenes[frame] for frame in frames}) == 1 for frames in both)


def test_sets_are_listed_by_name(reader: SevenScenes) -> None:
    names = [reader.names[i] for i in (4, 0, 2)]
    sets = sets_by_names(reader, [names, names[:2]])
    assert list(sets.sets) == [(4, 0, 2), (4, 0)]
    with pytest.raises(Prob3rError, match="has no frame 'x'; its frames are called like 'chess/"):
        sets_by_names(reader, [[names[0], "x"]])
    with pytest.raises(Prob3rError, match="are of several scenes"):
        sets_by_names(reader, [[names[0], reader.names[-1]]])


def test_what_cannot_be_is_refused(reader: SevenScenes) -> None:
    with pytest.raises(Prob3rError, match="has no scene with 30 frames that overlap"):
        sets_by_covisibility(reader, 30)
    with pytest.raises(Prob3rError, match="has no scene with 5 frames 9 apart"):
        sets_by_stride(reader, 5, 9)
    with pytest.raises(Prob3rError, match="A scene of 1 views was asked for"):
        sets_by_covisibility(reader, 1)
    with pytest.raises(Prob3rError, match="stride is 0"):
        sets_by_stride(reader, 2, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_they_come_in_batches(root: Path, workers: int) -> None:
    scenes = open_views(f"7scenes:{root}", FRAMING, 3)
    some = sample(scenes, 7)
    assert isinstance(some, Subset)
    seen = list(batches(some, 7, 4, workers=workers))
    assert [len(batch) for batch in seen] == [4, 3]
    assert {batch.count for batch in seen} == {3}
    one = some[5]
    assert torch.equal(seen[1].views[2].image[1], one.views[2].image[0])
    assert seen[1].names[1] == one.names[0]


def test_scenes_are_opened_by_name(root: Path) -> None:
    rooms = open_views("rooms:test@32", FRAMING, 4).batch([3, 5])
    assert (rooms.count, rooms.names) == (4, ("rooms/test/3", "rooms/test/5"))
    assert len(open_views(str(root), FRAMING, 2, stride=3)) == 13 + 3
    assert type(open_views("lookalikes:test@32", FRAMING, 2).batch([1])) is Pair
    with pytest.raises(Prob3rError, match="has no recording to take 3 views from"):
        open_views("rooms:test@32", FRAMING, 3, stride=2)
    with pytest.raises(Prob3rError, match="There are no pairs 'rooms:all'"):
        open_views("rooms:all", FRAMING, 3)


def test_views_of_a_set_see_the_same_things(reader: SevenScenes) -> None:
    views = sets_by_covisibility(reader, 4)[0]
    pairs = [views.pair(i, j).overlap().item() for i, j in combinations(range(1, 5), 2)]
    assert sum(overlap > 0.05 for overlap in pairs) >= 3


def test_folders_of_photographs_are_scenes_too(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 3), ("c", 2)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            Image.new("RGB", (64, 48), (10 * number,) * 3).save(folder / f"{number}.png")
        views = [{"image": f"{number}.png"} for number in range(count)]
        (folder / "pair.json").write_text(json.dumps({"views": views}))
    scenes = open_views(str(tmp_path), FRAMING, 3)
    batch = scenes.batch([0, 1])
    assert (batch.count, batch.names) == (3, ("a", "b"))
    assert len(set(batch.scenes)) == 2
    assert batch.views[2].image[0, 0, 0, 0].item() == pytest.approx(20 / 127.5 - 1)
    with pytest.raises(Prob3rError, match="c holds 2 views, not 3"):
        scenes.batch([2])
    with pytest.raises(Prob3rError, match=r"pair\.json holds 3 views; a pair takes two"):
        Pair.from_folder(tmp_path / "a", FRAMING)
    assert type(Views.from_folder(tmp_path / "c", FRAMING)) is Pair


def test_in_a_recording_read_in_order_the_control_is_no_neighbour(root: Path) -> None:
    reader = SevenScenes(root / "seq-01", FRAMING)
    pair = reader.batch(range(len(reader)))
    control = shuffled(pair)
    assert control.known.float().mean() > 0.8
    assert not control.elsewhere.any()
    rows = control.known.nonzero().flatten().tolist()
    for row in rows:
        image = control.pair.view1.image[row]
        other = next(i for i, own in enumerate(pair.view1.image) if torch.equal(own, image))
        shown = Pair(pair[other].view1, pair[row].view2)
        assert shown.overlap().item() < 0.02
    # The pair before shares its first frame with most pairs.
    before = pair.view1.image.roll(1, 0)
    assert sum(torch.equal(*both) for both in zip(before, pair.view1.image, strict=True)) > 10
