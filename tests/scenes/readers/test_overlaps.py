"""Overlaps at low resolution, of a recording written from a room."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from prob3r.errors import Prob3rError
from prob3r.geometry import rotation_angle
from prob3r.scenes.framing import Framing
from prob3r.scenes.readers import SevenScenes
from prob3r.scenes.readers.corrupt import CorruptError
from prob3r.scenes.readers.overlaps import Overlaps
from prob3r.scenes.sampling import sample, select
from tests.scenes.readers.sequence import write_sequence


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequence(tmp_path_factory.mktemp("set") / "chess", 16)


@pytest.fixture
def reader(root: Path) -> SevenScenes:
    return SevenScenes(root, Framing(48, "square"))


@pytest.mark.parametrize("workers", [0, 3])
def test_they_are_those_of_the_framed_views(reader: SevenScenes, workers: int) -> None:
    pairs = [reader.frames_of(i) for i in range(len(reader))]
    found = torch.tensor(Overlaps(reader, workers).of(pairs))
    true = reader.batch(range(len(reader))).overlap()
    assert len(found) > 20
    assert true.min() < 0.1 < 0.6 < true.max()
    assert (found - true).abs().max() < 0.02


def test_a_selection_reads_no_image(reader: SevenScenes, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = reader.batch(range(len(reader)))
    overlap, rotation = pair.overlap(), rotation_angle(pair.view2_to_view1[:, :3, :3])
    monkeypatch.setattr(SevenScenes, "view", lambda *_: pytest.fail("an image was read"))
    found = select(reader, (0.3, 0.7), (10, 40), workers=2)
    # Close to a bound the two resolutions may disagree.
    inner = (overlap > 0.32) & (overlap < 0.68) & (rotation > 10) & (rotation < 40)
    outer = (overlap > 0.28) & (overlap < 0.72) & (rotation > 10) & (rotation < 40)
    assert 0 < int(inner.sum()) < len(reader)
    assert set(inner.nonzero().flatten().tolist()) <= set(found.indices)
    assert set(found.indices) <= set(outer.nonzero().flatten().tolist())


def test_they_are_remembered_until_a_depth_file_changes(
    root: Path, reader: SevenScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    coarse = SevenScenes.coarse

    def counted(self: SevenScenes, frame: int) -> object:
        read.append(frame)
        return coarse(self, frame)

    monkeypatch.setattr(SevenScenes, "coarse", counted)
    first = select(sample(reader, 20), (0.3, 0.7)).indices
    assert len(set(read)) == len(read) > 0
    read.clear()
    assert select(sample(reader, 20), (0.3, 0.7)).indices == first
    assert read == []
    file = reader.depth_file(3)
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    again = SevenScenes(root, Framing(48, "square"))
    select(sample(again, 20), (0.3, 0.7))
    touched = {
        f for i in sample(again, 20).indices for f in again.frames_of(i) if 3 in again.frames_of(i)
    }
    assert set(read) == touched
    read.clear()
    other = SevenScenes(root, Framing(32, "square"))
    select(sample(other, 20), (0.3, 0.7))
    assert read


def test_a_faulty_frame_is_a_fault_of_its_pairs_alone(tmp_path: Path) -> None:
    root = write_sequence(tmp_path / "chess", 6)
    reader = SevenScenes(root, Framing(48, "square"))
    bad = reader.frames_of(0)[1]
    Image.new("I;16", (64, 48)).save(reader.depth_file(bad))
    pairs = [reader.frames_of(i) for i in range(len(reader))]
    for pair, found in zip(pairs, Overlaps(reader).of(pairs), strict=True):
        assert isinstance(found, CorruptError) == (bad in pair)
    with pytest.raises(Prob3rError, match="has no pixel whose depth is known"):
        select(reader, (0.3, 0.7))


def test_a_damaged_memory_is_as_good_as_none(reader: SevenScenes) -> None:
    overlaps = Overlaps(reader)
    pairs = [reader.frames_of(i) for i in range(5)]
    found = overlaps.of(pairs)
    overlaps.save()
    assert Overlaps(reader)._kept
    for damage in (b"", b"PK\x03\x04 nothing"):
        overlaps._file().write_bytes(damage)
        assert Overlaps(reader).of(pairs) == found
