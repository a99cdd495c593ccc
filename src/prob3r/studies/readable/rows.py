"""The rows of the table of what can be read: what they are called, and the errors that count."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.statistics import as_text, median_interval, wide
from prob3r.probes.targets import TARGETS
from prob3r.studies.framework.study import MODEL

RANDOM, ENCODER = "random", "encoder"
CAMERA, CAMERA_TOKEN = "camera", "camera token"
"""A special token, and the source of what is read off it."""

MEAN, SAME_PLACE, POINTS = "mean", "same place", "pointmap"
"""What stands beside the probes: what says a target without input, and two plain guesses."""


class Level(NamedTuple):
    """The errors of one source at one site.

    Attributes:
        site: The site; empty for what reads none.
        metric: The error.
        errors: Of each pair.
        sites: All sites of the source, in their order.
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
        rows: Of one target.
        source: Whose they are.
        site: Where; by default at the site that held-out scenes chose.
    """
    (name,) = set(rows.target)
    metric = TARGETS[name].measures[0]
    own = rows[(rows.source == source) & (rows.metric == metric)]
    if site is None:
        site = own[own.chosen].site.iloc[0]
    sites, values = wide(own, "site")
    return Level(site, metric, values[:, sites.index(site)], sites)


def table_of_sites(table: pd.DataFrame) -> pd.DataFrame:
    """Return the medians over pairs with their intervals: a row a target, metric, source and site.

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
    """Return which share of the error of the mean is gone at every site.

    Returns:
        The names of the targets, the sites, and one minus the ratio of the median errors, a row a
        target.
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
