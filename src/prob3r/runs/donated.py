"""Activations of another scene of the batch, for `resample` and for swaps between scenes."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.views import Views


class Donated(NamedTuple):
    """Activations that scenes of a batch receive from another scene, their donor.

    Attributes:
        rows: The indices of the scenes that have a donor, in rising order: all scenes of the
            batch, or none. There is no donor if the batch holds only one scene, or if its scenes
            are not known.
        records: The donors' records by site. Row i is for the scene `rows[i]`.
    """

    rows: list[int]
    records: dict[str, Tensor]

    @classmethod
    def of(cls, views: Views, records: Mapping[str, Tensor]) -> "Donated":
        """Return the records of each scene's donor; see `prob3r.scenes.shuffled.other_scenes`.

        Args:
            views: The batch.
            records: Records of the batch by site, such as a trace; scenes come first.
        """
        donors = other_scenes(views)
        rows = (donors >= 0).nonzero()[:, 0]
        given = {site: r[donors[rows].to(r.device)] for site, r in records.items()}
        return cls(rows.tolist(), given)
