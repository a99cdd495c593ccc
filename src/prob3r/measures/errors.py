"""The pointmaps that probes decode at every site of a model, and their errors."""

from collections.abc import Collection, Mapping

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.models import Model
from prob3r.models.sites import Site
from prob3r.probes import SiteReader
from prob3r.runs.trace import trace
from prob3r.scenes.views import Pair

METRICS = (
    "rotation_error",
    "translation_error",
    "scale_error",
    "shape_error",
    "pointmap_error",
)


def decode_sites(model: Model, bank: SiteReader, pair: Pair) -> dict[str, Float[Tensor, "b h w 3"]]:
    """Return the pointmap that each probe of a bank decodes from one run."""
    run = trace(model, pair, bank.sites, output=False)
    return {site: bank.decode(run[site]).points for site in bank.sites}


def twins(sites: Collection[str]) -> list[tuple[str, str]]:
    """Return the pairs of sites of view 1 and view 2 at the same depth, in order."""
    second = (Site.parse(site) for site in sites)
    pairs = [(str(site.of(1)), str(site)) for site in second if site.view == 2]
    return [(first, second) for first, second in pairs if first in sites]


def site_errors(points: Mapping[str, Float[Tensor, "b h w 3"]], pair: Pair) -> pd.DataFrame:
    """Return every error of both views at every site, one row for each pair, site and metric."""
    parts = []
    for first, second in twins(points):
        for metric, values in pair.errors_of((points[first], points[second]))._asdict().items():
            name, view = metric.rstrip("12"), 1 if metric == "pointmap_error1" else 2
            if name in METRICS:
                site = first if view == 1 else second
                rows = {"pair": range(len(pair)), "site": site, "view": view, "metric": name}
                parts.append(pd.DataFrame(rows | {"value": values.cpu().numpy()}))
    return pd.concat(parts, ignore_index=True)
