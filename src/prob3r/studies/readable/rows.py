"""The rows of the table of what can be read: names of sources, and the errors that are judged."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import as_text, median_interval, wide
from prob3r.probes.targets import TARGETS
from prob3r.studies.framework.tested import MODEL

RANDOM, ENCODER = "random", "encoder"
CAMERA, CAMERA_TOKEN = "camera", "camera token"
"""A special token, and the source of what is read from it."""

MEAN, SAME_PLACE, POINTS = "mean", "same place", "pointmap"
"""Sources without probes of their own: the mean, and two simple guesses."""


class Level(NamedTuple):
    """The errors of one source at one site.

    Attributes:
        site: The site; empty for a source that reads no site.
        metric: The name of the error.
        errors: The error of each pair.
        sites: All sites of the source, in order.
    """

    site: str
    metric: str
    errors: Float[Tensor, " n"]
    sites: list[str]

    @property
    def middle(self) -> Interval:
        """The median over pairs, with its interval."""
        return median_interval(self.errors)

    def __str__(self) -> str:
        return as_text(self.middle, places=3, sign="-")


def level(rows: pd.DataFrame, source: str, site: str | None = None) -> Level:
    """Return the errors of a source.

    Args:
        rows: The rows of one target.
        source: The source.
        site: The site; by default the one that held-out scenes chose.
    """
    (name,) = set(rows.target)
    metric = TARGETS[name].measures[0]
    own = rows[(rows.source == source) & (rows.metric == metric)]
    if site is None:
        site = own[own.chosen].site.iloc[0]
    sites, values = wide(own, "site")
    return Level(site, metric, values[:, sites.index(site)], sites)


def table_of_sites(table: pd.DataFrame) -> pd.DataFrame:
    """Return medians over pairs with intervals, a row for each target, metric, source and site.

    The column `chosen` marks the site that held-out scenes chose.
    """
    found = []
    order = ["target", "metric", "source", "site"]
    for names, rows in table.groupby(order, sort=False):
        middle = median_interval(torch.tensor(rows.value.to_numpy(copy=True)))
        chosen = bool(rows.chosen.any())
        found.append(dict(zip(order, names, strict=True)) | middle._asdict() | {"chosen": chosen})
    return pd.DataFrame(found)


def skill(table: pd.DataFrame, source: str = MODEL) -> tuple[list[str], list[str], Tensor]:
    """Return by what share the error at every site is below the error of the mean.

    Returns:
        The names of the targets, the sites, and one minus the ratio of the median errors, with a
        row for each target.
    """
    names, found, sites = list(dict.fromkeys(table.target)), [], list[str]()
    for name in names:
        rows = table[(table.target == name) & (table.metric == TARGETS[name].measures[0])]
        mean = rows[rows.source == MEAN].value.median()
        own = rows[rows.source == source]
        sites = list(dict.fromkeys(own.site))
        errors = own.groupby("site", sort=False).value.median()
        found.append(torch.tensor([1 - errors[site] / mean for site in sites]))
    return names, sites, torch.stack(found)
