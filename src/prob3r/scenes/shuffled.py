"""Pairs whose view 1 shows nothing of what view 2 shows.

The other view 1 comes from another pair of the batch. It is of another scene. If there is none, it
is a frame of the same scene that sees nothing of view 2. If there is none either, the pair has no
control. The next pair of a batch is not good enough, because neighbours in a list of pairs often
share a frame.
"""

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prob3r.geometry import CoarseView, seen_share
from prob3r.scenes.views import Pair, View, Views

if TYPE_CHECKING:
    import pandas as pd

NOTHING = 0.01
"""Two frames see nothing of each other if each sees a smaller share of the other's surface."""


class Shuffled(NamedTuple):
    """A batch of pairs whose view-1 images come from elsewhere.

    Attributes:
        pair: The batch; only the images of view 1 differ from it. A pair that has no control is as
            it was.
        known: Which pairs have a control.
        elsewhere: Which of them are shown another scene; the others are shown a frame that sees
            nothing of view 2.
    """

    pair: Pair
    known: Bool[Tensor, " b"]
    elsewhere: Bool[Tensor, " b"]

    @property
    def counts(self) -> Counter[str]:
        """How many pairs are shown another scene, an unseen frame, or have no control."""
        elsewhere, known = int(self.elsewhere.sum()), int(self.known.sum())
        none = len(self.known) - known
        return Counter(elsewhere=elsewhere, unseen=known - elsewhere, none=none)

    def masked(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """Return a table of the control with no value for the pairs that have none.

        Args:
            table: With the columns `value` and `pair`, the pair's number in the batch.
        """
        known = self.known.cpu().numpy()[table.pair.to_numpy()]
        return table.assign(value=table.value.where(known))


def shuffled(pair: Pair) -> Shuffled:
    """Return the pairs of a batch, each with the view-1 image of another: the control.

    The candidates are the other pairs of the batch, backwards from this one and around the end.
    Pairs of unknown scenes have no control. In a batch of rooms each pair is a scene of its own, so
    the control is the pair before.
    """
    rows, elsewhere = _others(pair)
    known = rows >= 0
    rows = rows.where(known, torch.arange(len(pair))).to(pair.view1.image.device)
    view1 = replace(pair.view1, image=pair.view1.image[rows])
    return Shuffled(pair.with_views(view1=view1), known.to(rows.device), elsewhere.to(rows.device))


def other_scenes(views: Views) -> Int[Tensor, " b"]:
    """Return of each scene of a batch the nearest one before it, in a circle, of another scene.

    It is -1 where the batch holds no other scene, or the scenes are not known.
    """
    count, scenes = len(views), views.scenes
    rows = torch.full((count,), -1)
    for row in range(count) if scenes else ():
        others = ((row - step) % count for step in range(1, count))
        rows[row] = next((other for other in others if scenes[other] != scenes[row]), -1)
    return rows


def _others(pair: Pair) -> tuple[Int[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return which pair's view 1 each pair is shown, -1 for none, and if it is another scene's."""
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
