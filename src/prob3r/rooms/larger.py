"""Rooms rendered with more pixels than a model sees, as photographs have more pixels."""

from copy import copy
from dataclasses import replace

from prob3r.rooms.dataset import Rooms
from prob3r.scenes.source import Pairs, Subset
from prob3r.scenes.views import Pair

ENLARGED = 4  # factor of height and width
SMALL = 256  # pixels; a view with a longer side below this is too small for keypoints


def enlarged(rooms: Rooms) -> Rooms:
    """Return the same pairs with views of 4 times the height and width, rendered uncompiled."""
    larger = copy(rooms)
    larger.size = (ENLARGED * rooms.size[0], ENLARGED * rooms.size[1])
    larger.compile = False
    return larger


def larger_rooms(pairs: Pairs) -> Rooms | None:
    """Return the rooms with larger views if the pairs are rooms with small views, else None."""
    while isinstance(pairs, Subset):
        pairs = pairs.pairs
    return enlarged(pairs) if isinstance(pairs, Rooms) and max(pairs.size) < SMALL else None


def larger_pairs(larger: Rooms, pair: Pair) -> list[Pair]:
    """Render the pairs of a batch with larger views, one by one; their names hold the numbers."""
    return [larger[int(name.rpartition("/")[2])] for name in pair.names]


def with_fine(pair: Pair, larger: Rooms | None) -> list[Pair]:
    """Return the pairs of a batch one by one, with their larger views as `fine` photographs.

    Without larger rooms, the pairs are unchanged.
    """
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
