"""Views at the size of another model, and sources of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.geometry import project
from prob3r.rooms import Rooms
from prob3r.scenes import Framing, View
from prob3r.scenes.readers import CorruptError, Items
from prob3r.scenes.source import Resized, batches, share_views
from prob3r.scenes.views import Pair


def test_everything_known_is_resized_alike() -> None:
    columns = torch.arange(8.0).expand(1, 8, 8)
    view = View(
        columns[:, None].expand(-1, 3, -1, -1) / 8,
        torch.tensor([[[8.0, 0, 3.5], [0, 8.0, 3.5], [0, 0, 1]]]),
        torch.eye(4)[None],
        1 + columns,
        columns > 3,
        columns.int(),
        torch.zeros(1, 3, 16, 16),
    )
    small = view.resized((4, 4))
    assert small.size == (4, 4)
    # A pixel of the half size lies between two; the antialiased image has the mean of its columns.
    assert small.image[0, 0, 0, 1:3].tolist() == pytest.approx([2.5 / 8, 4.5 / 8])
    assert small.intrinsics is not None
    assert small.intrinsics[0, 0].tolist() == [4, 0, 1.5]
    assert small.labels is not None
    assert small.labels.dtype == torch.int32
    assert small.labels[0, 0].tolist() == [1, 3, 5, 7]
    assert small.depth is not None
    assert small.depth[0, 0].tolist() == [2, 4, 6, 8]
    assert small.known[0, 0].tolist() == [False, False, True, True]
    assert small.fine is None
    assert view.resized((8, 8)) is view


def test_points_stay_where_they_are() -> None:
    room = Rooms("test", (64, 64), compile=False)[0]
    small = room.resized_for(Framing(32, "square", 8))
    assert small.view2.size == (32, 32)
    pixels = project(small.view2.points, small.view2.intrinsics)
    grid = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing="xy"), -1)
    assert small.view2.known.any()
    assert (pixels - grid)[small.view2.known].abs().max() < 1e-3
    assert torch.equal(small.view2_to_view1, room.view2_to_view1)
    # Depth is that of a pixel no farther than half a pixel away in each direction.
    assert room.view2.depth is not None
    assert small.view2.depth is not None
    assert torch.equal(small.view2.depth, room.view2.depth[:, 1::2, 1::2])


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_longer_side_is_the_models(rows: int, columns: int) -> None:
    height, width = Framing(64, "square", 8).fitted((14 * rows, 14 * columns))
    assert max(height, width) == 64
    assert min(height, width) % 8 == 0
    exact = 64 * min(rows, columns) / max(rows, columns)
    assert abs(min(height, width) - max(exact, 8)) <= 4


class Some(Items):
    """Three pairs of 8 pixels, the second of them corrupt."""

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> Pair:
        if index == 1:
            raise CorruptError("item 1 is broken.")
        view = View(torch.full((1, 3, 8, 8), float(index)))
        return Pair(view, view, (str(index),))


def test_a_resized_source_reads_as_its_source_does() -> None:
    resized = Resized(Some(), Framing(16, "square", 8))
    assert len(resized) == 3
    assert resized.batch([0, 2]).view1.size == (16, 16)
    with pytest.raises(CorruptError, match="item 1"):
        resized.batch([1])
    assert share_views(resized)
    assert not share_views(Resized(Rooms("test", (32, 32), compile=False), Framing(16, "square")))


def test_corrupt_items_of_a_resized_source_are_skipped() -> None:
    class Many(Some):
        def __len__(self) -> int:
            return 150

        def read(self, index: int) -> Pair:
            return super().read(min(index, 2))

    (pair,) = batches(Resized(Many(), Framing(16, "square", 8)), 150, 200)
    assert len(pair) == 149
    assert pair.view2.size == (16, 16)
