"""The rows of the table of pose probes: what they are called, and what is read best."""

from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import median
from prob3r.measures.statistics import wide
from prob3r.probes.tokens import BEST

RANDOM = "random"
CAMERA = "camera"
AVERAGE, IDENTITY, OUTPUT = "mean pose", "identity pose", "output"
"""What stands beside the probes: what they say without features, and the model's own pose."""

PATCHES = (BEST, "sink", "centre", "corner")
METRICS = ("rotation_error", "translation_error")


class BestProbe(NamedTuple):
    """The better probe of the better of some tokens.

    Attributes:
        what: The probe and the token.
        errors: Its rotation error at the last site, of each pair.
    """

    what: str
    errors: Float[Tensor, " n"]


def rows_at_last_sites(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of probes at the last site of their source; models differ in their sites."""
    read = table[table.token != ""]
    return read[read.site == read.groupby("source").site.transform("last")]


def at_last_site(table: pd.DataFrame, source: str, tokens: tuple[str, ...]) -> BestProbe:
    """Return what is read best at the last site of a source, by the median rotation error."""
    rows = rows_at_last_sites(table)
    rows = rows[(rows.source == source) & (rows.metric == METRICS[0]) & rows.token.isin(tokens)]
    names, values = wide(rows.assign(what=rows.token + ", " + rows.probe), "what")
    least = int(median(values.T).argmin())
    return BestProbe(names[least], values[:, least])
