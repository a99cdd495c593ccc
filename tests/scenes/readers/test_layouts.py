"""What every layout has to hold: the truth after a round trip, pairs, laziness, faults."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import pixel_matches
from prob3r.scenes import Pair
from prob3r.scenes.readers import READERS, CorruptError, Reader
from prob3r.scenes.source import Pairs, batches, open_pairs
from tests.scenes.readers.benchmark_writers import POSED
from tests.scenes.readers.conftest import LAYOUTS, Written
from tests.scenes.readers.shots import FRAMING, SIZE, UNKNOWN

LISTED = {
    "scannetpp": [(0, 2), (3, 1), (2, 4)],
    "blendedmvs": [(0, 1), (4, 2), (3, 1)],
    "megadepth": [(0, 1), (4, 2), (3, 1)],
    "habitat": [(0, 1), (0, 2), (0, 3), (0, 4)],
}
# Half a step of what the files hold, relative to the nearest depth or as such.
DEPTH = {
    "scannetpp": 5.1e-4,
    "co3d": 3e-4,
    "blendedmvs": 1e-6,
    "megadepth": 1e-6,
    "habitat": 2e-3,
    "nerfstudio": 5.1e-4,
    "tum": 1.01e-4,
    "7scenes": 5.1e-4,
    "colmap": 5.1e-4,
    "nrgbd": 5.1e-4,
    "eth3d": 1e-6,
    "dtu": 1e-4,
    "sintel": 1e-6,
}


def same(pair: Pair, other: Pair) -> bool:
    return pair.names == other.names and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in ((pair.view1, other.view1), (pair.view2, other.view2))
        for name in ("image", "intrinsics", "cam_to_world", "depth", "valid")
    )


def test_all_layouts_are_written() -> None:
    assert {*LAYOUTS, *POSED} == set(READERS)


def test_the_truth_survives(written: Written) -> None:
    reader = written.open()
    assert set(reader.names) == set(written.truth)
    for frame, name in enumerate(reader.names):
        view, shot = reader.view(frame), written.truth[name]
        assert view.size == SIZE
        depth, pose = view.depth[0].numpy(), view.cam_to_world[0].numpy()
        np.testing.assert_allclose(depth, shot.depth, atol=DEPTH[written.layout], rtol=1e-6)
        assert np.array_equal(view.valid[0].numpy(), shot.depth > 0)
        assert not view.valid[0][UNKNOWN].any()
        np.testing.assert_allclose(view.intrinsics[0].numpy(), shot.intrinsics, atol=1e-5)
        np.testing.assert_allclose(pose, shot.cam_to_world, atol=2e-6)
        levels = 127.5 * (view.image[0].permute(1, 2, 0).numpy() + 1)
        assert np.abs(levels - shot.image).mean() < 1


def test_matches_show_the_same_colours(written: Written) -> None:
    """The check of all conventions at once: what geometry calls one point looks like one."""
    read = written.open()[0]
    for pair in (read, read.swap()):
        one = pair.view1
        match = pixel_matches(pair.match_truth)
        assert match.visible.float().mean() > 0.4
        x, y = match.pixels[match.visible].round().long().unbind(-1)
        seen = one.image[0, :, y.clamp(0, SIZE[0] - 1), x.clamp(0, SIZE[1] - 1)]
        shown = pair.view2.image[0][:, match.visible[0]]
        assert torch.corrcoef(torch.stack([seen.flatten(), shown.flatten()]))[0, 1] > 0.85


def test_pairs_are_listed_or_overlap(written: Written) -> None:
    reader = written.open()
    assert isinstance(reader, Pairs)
    names = [list(written.truth).index(name) for name in reader.names]
    pairs = [(names[first], names[second]) for first, second in reader.pairs.tolist()]
    if written.layout in LISTED:
        assert pairs == LISTED[written.layout]
        return
    assert len(pairs) == len(set(pairs)) > 3
    for index, (first, second) in enumerate(reader.pairs.tolist()):
        assert first < second
        assert reader.scenes[first] == reader.scenes[second]
        pair = reader[index]
        assert min(pair.overlap(), pair.swap().overlap()) > 0.1


def test_items_and_batches(written: Written) -> None:
    reader = written.open()
    pair = reader[1]
    first, second = (reader.names[frame] for frame in reader.pairs[1].tolist())
    assert pair.names == (f"{first}, {second}",)
    batch = reader.batch([0, 1])
    assert len(batch) == 2
    assert same(batch[1], pair)
    assert same(reader[-1], reader[len(reader) - 1])
    with pytest.raises(IndexError):
        reader[len(reader)]
    cosine = (pair.view2_to_view1[0, :3, :3].trace().item() - 1) / 2
    assert reader.rotation(1) == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-2)


def test_readers_go_to_workers_as_they_are(written: Written) -> None:
    reader = written.open()
    again: Reader = pickle.loads(pickle.dumps(reader))
    assert same(again[0], reader[0])
    assert len(pickle.dumps(reader)) < 50_000  # no image is in it


@pytest.mark.parametrize("layout", ["tum", "habitat", "colmap"])
def test_batches_by_workers_are_the_same(write: Callable[[str], Written], layout: str) -> None:
    reader = write(layout).open()
    here = list(batches(reader, 4, 2))
    there = list(batches(reader, 4, 2, workers=2))
    assert [same(a, b) for a, b in zip(here, there, strict=True)] == [True] * len(here)


def test_layouts_are_opened_by_name_and_by_sight(written: Written) -> None:
    for name in (f"{written.layout}:{written.root}", str(written.root)):
        assert type(open_pairs(name, FRAMING)) is READERS[written.layout]


def test_what_is_not_there_is_said(written: Written, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="nowhere does not exist; give a data set in the"):
        open_pairs(f"{written.layout}:{tmp_path / 'nowhere'}", FRAMING)
    reader = READERS[written.layout]
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(Prob3rError, match=f"is not in the {written.layout} layout: there is no"):
        reader(tmp_path, FRAMING)


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "nonsense"])
@pytest.mark.parametrize("which", ["image", "depth_file"])
def test_a_bad_file_makes_its_frame_corrupt(
    written: Written, tmp_path: Path, fault: str, which: str
) -> None:
    own = written.copy(tmp_path)
    reader = own.open()
    file: Path = getattr(reader, which)(0)
    content = file.read_bytes()
    broken = {"empty": b"", "truncated": content[: len(content) // 2], "nonsense": b"no\n" * 99}
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(broken[fault])
    with pytest.raises(CorruptError) as error:
        reader.view(0)
    assert error.value.problem == ("missing file" if fault == "missing" else "corrupt file")
    message = str(error.value)
    assert file.name.partition(".")[0] in message
    assert "\n" not in message
    assert message.endswith(".")
    assert str(pickle.loads(pickle.dumps(error.value))) == message
    assert pickle.loads(pickle.dumps(error.value)).problem == error.value.problem
    assert reader.view(1).known.any()


def test_depth_that_is_nowhere_known_makes_a_frame_corrupt(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = written.open()
    monkeypatch.setattr(type(reader), "depth", lambda self, frame: torch.zeros(SIZE))
    with pytest.raises(CorruptError, match=r"has no pixel whose depth is known\.") as error:
        reader.view(0)
    assert error.value.problem == "bad depth"
