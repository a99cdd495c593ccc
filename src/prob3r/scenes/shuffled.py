"""Control pairs: view 1 shows nothing that view 2 shows.

The image of view 1 is replaced by that of another pair of the batch: a pair of another scene, or
else a pair of the same scene whose view 1 sees nothing of view 2. If there is neither, the pair has
no control. Simply taking the next pair would be wrong, because neighbours in a list of pairs often
share a frame.
"""

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prob3r.geometry import CoarseView, seen_share
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Scenes, Views

if TYPE_CHECKING:
    import pandas as pd

NOTHING = 0.01
"""Two frames count as seeing nothing of each other if both shares of seen surface are smaller."""


class Shuffled(NamedTuple):
    """A batch of control pairs, whose view-1 images come from other pairs.

    Attributes:
        pair: The batch. Only the images of view 1 are changed. A pair without a control is
            unchanged.
        known: Whether each pair has a control.
        elsewhere: Whether the control's view 1 shows another scene. If not, it is a frame that sees
            nothing of view 2.
    """

    pair: Pair
    known: Bool[Tensor, " b"]
    elsewhere: Bool[Tensor, " b"]

    @property
    def counts(self) -> Counter[str]:
        """Number of pairs with view 1 of another scene, with an unseen frame, without control."""
        elsewhere, known = int(self.elsewhere.sum()), int(self.known.sum())
        none = len(self.known) - known
        return Counter(elsewhere=elsewhere, unseen=known - elsewhere, none=none)

    def masked(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return a table of the control in which pairs without a control have no value.

        Args:
            table: A table with the columns `value` and `pair` (the number of the pair in the
                batch).
        """
        known = self.known.cpu().numpy()[table.pair.to_numpy()]
        return table.assign(value=table.value.where(known))


def shuffled(pair: Pair) -> Shuffled:
    """Return the control of a batch: every pair gets the view-1 image of another pair.

    The candidates are the other pairs of the batch, from the previous one backwards, in a circle.
    Pairs of unknown scenes have no control. In a batch of rooms every pair is a scene of its own,
    so the previous pair is used.
    """
    rows, elsewhere = _others(pair)
    shown, known = _given_first(pair, rows)
    return Shuffled(shown, known, elsewhere.to(known.device))


class OtherFirst(NamedTuple):
    """A batch of scenes, each with the image of view 1 of another scene.

    Attributes:
        views: The batch. Only the images of view 1 are changed. A scene without a control is
            unchanged.
        known: Whether each scene has a control.
    """

    views: Views
    known: Bool[Tensor, " b"]


def with_other_first(views: Views) -> OtherFirst:
    """Return the control of a batch of scenes: view 1 shows another scene; see `other_scenes`."""
    return OtherFirst(*_given_first(views, other_scenes(views)))


def other_scenes(views: Views) -> Int[Tensor, " b"]:
    """Return, for each row of a batch, the nearest previous row that shows another scene.

    The rows are searched in a circle. The result is -1 if the batch has no other scene, or if the
    scenes are not known.
    """
    count, scenes = len(views), views.scenes
    rows = torch.full((count,), -1)
    for row in range(count) if scenes else ():
        others = ((row - step) % count for step in range(1, count))
        rows[row] = next((other for other in others if scenes[other] != scenes[row]), -1)
    return rows


def _given_first(views: Scenes, rows: Int[Tensor, " b"]) -> tuple[Scenes, Bool[Tensor, " b"]]:
    """Return scenes with the view-1 image of another row, and which have one; -1 is none."""
    first, known = views.views[0], rows >= 0
    rows = rows.where(known, torch.arange(len(views))).to(first.image.device)
    return views.with_first(replace(first, image=first.image[rows])), known.to(rows.device)


def _others(pair: Pair) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return the row whose view 1 each pair gets (-1 for none), and if it shows another scene."""
    count, scenes = len(pair), pair.scenes
    rows = other_scenes(pair)
    elsewhere = rows >= 0
    views: tuple[CoarseView, CoarseView] | None = None
    for row in (~elsewhere).nonzero()[:, 0].tolist() if scenes else ():
        others = [(row - step) % count for step in range(1, count)]
        if others and pair.has_truth:
            views = views or (_coarse(pair.view1), _coarse(pair.view2))
            rows[row] = _unseen(views[0].take(torch.tensor(others)), views[1], row, others)
    return rows, elsewhere


def _coarse(view: View) -> CoarseView:
    """Return views at low resolution, on the CPU."""
    assert view.depth is not None
    assert view.intrinsics is not None
    assert view.cam_to_world is not None
    depth = (view.depth * view.known).cpu()
    return CoarseView.of(depth, view.intrinsics.cpu(), view.cam_to_world.cpu())


def _unseen(candidates: CoarseView, views2: CoarseView, row: int, others: list[int]) -> int:
    """Return the first candidate that sees nothing of a view 2, or -1."""
    view2 = views2.take(torch.full((len(others),), row))
    apart = (seen_share(candidates, view2) < NOTHING) & (seen_share(view2, candidates) < NOTHING)
    return others[int(apart.int().argmax())] if apart.any() else -1
