"""Rooms in more pixels than a model sees; photographs, too, have more pixels than that."""

from copy import copy
from dataclasses import replace

from prob3r.rooms.dataset import Rooms
from prob3r.scenes.source import Pairs, Subset
from prob3r.scenes.views import Pair

ENLARGED = 4
SMALL = 256  # pixels along the longer side, from which on views are large enough for keypoints


def enlarged(rooms: Rooms) -> Rooms:
    """Return the same pairs in larger views, rendered without a compiler."""
    larger = copy(rooms)
    larger.size = (ENLARGED * rooms.size[0], ENLARGED * rooms.size[1])
    larger.compile = False
    return larger


def larger_rooms(pairs: Pairs) -> Rooms | None:
    """Return the pairs in larger views, if they are small rooms, else None."""
    while isinstance(pairs, Subset):
        pairs = pairs.pairs
    return enlarged(pairs) if isinstance(pairs, Rooms) and max(pairs.size) < SMALL else None


def larger_pairs(larger: Rooms, pair: Pair) -> list[Pair]:
    """Return the pairs of a batch in larger views, found by their names."""
    return [larger[int(name.rpartition("/")[2])] for name in pair.names]


def with_fine(pair: Pair, larger: Rooms | None) -> list[Pair]:
    """Return the pairs of a batch one by one, with their larger views as `fine` photographs."""
    singles = [pair[i] for i in range(len(pair))]
    if larger is None:
        return singles
    return [
        one.with_views(
            replace(one.view1, fine=fine.view1.image.to(one.view1.image)),
            replace(one.view2, fine=fine.view2.image.to(one.view2.image)),
        )
        for one, fine in zip(singles, larger_pairs(larger, pair), strict=True)
    ]
