"""The figures of the study of pose probes."""

from typing import TYPE_CHECKING

import pandas as pd
import torch

from prob3r.measures.controls import SHUFFLED
from prob3r.measures.statistics import median_interval, medians, wide
from prob3r.models.sites import Site
from prob3r.probes.tokens import BEST, LINEAR, MLP, POOLED
from prob3r.studies.framework.figures import COLOURS, LABELS, PAGE, band, figure
from prob3r.studies.framework.tested import MODEL, POSITIVE
from prob3r.studies.pose_probes.rows import (
    AVERAGE,
    CAMERA,
    METRICS,
    OUTPUT,
    PATCHES,
    RANDOM,
    rows_at_last_sites,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = {POOLED: COLOURS["easy"], BEST: COLOURS["hard"], CAMERA: COLOURS["cross_attn"]}
_PROBE_NAMES = {LINEAR: "linear", MLP: "MLP"}
_MARKERS = {LINEAR: "s", MLP: "o"}
_TOKEN_NAMES = {POOLED: "mean of patches", BEST: "best patch", CAMERA: "camera token"}


def draw_errors_by_block(table: pd.DataFrame) -> "Figure":
    """Return the errors over the blocks, a row an error, a column a model."""
    sources = [source for source in (MODEL, POSITIVE) if (table.source == source).any()]
    with figure(len(METRICS), len(sources), PAGE, 2.2) as (drawn, axes):
        panels = [(metric, source) for metric in METRICS for source in sources]
        for axis, (metric, source) in zip(axes, panels, strict=True):
            rows = table[(table.metric == metric) & (table.source == source)]
            for token, colour in _SHOWN.items():
                for probe, style in ((MLP, "-"), (LINEAR, ":")):
                    one = rows[(rows.token == token) & (rows.probe == probe)]
                    if len(one):
                        sites, values = wide(one, "site")
                        label = f"{_TOKEN_NAMES[token]}, {_PROBE_NAMES[probe]}"
                        band(axis, range(len(sites)), *medians(values), colour, label, style)
            _beside_lines(axis, table, metric, source)
            axis.set_xticks(
                range(len(sites)), ["in", *(str(Site.parse(site).block) for site in sites[1:])]
            )
            axis.set_ylim(bottom=0)
            axis.set_ylabel(LABELS[metric])
        for axis, source in zip(axes, sources, strict=False):
            axis.set_title(source)
        for axis in axes[-len(sources) :]:
            axis.set_xlabel("end of decoder block")
        handles, labels = axes[len(sources) - 1].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4)
    return drawn


def draw_tokens(table: pd.DataFrame) -> "Figure":
    """Return the rotation error of every token at the last site, with those of the controls."""
    sources = [source for source in (MODEL, POSITIVE) if (table.source == source).any()]
    rows = table[table.metric == METRICS[0]]
    at = rows_at_last_sites(rows).set_index(["source", "token"]).sort_index()
    with figure(1, len(sources), PAGE, 2.6) as (drawn, axes):
        for axis, source in zip(axes, sources, strict=True):
            read = {(source, token): token for token in (*PATCHES, CAMERA, POOLED)}
            if source == MODEL:
                read |= {(other, POOLED): f"pooled, {other}" for other in (SHUFFLED, RANDOM)}
            shown = {key: name for key, name in read.items() if key in at.index}
            for shift, (probe, marker) in zip((-0.12, 0.12), _MARKERS.items(), strict=True):
                found = [
                    median_interval(torch.tensor(one[one.probe == probe].value.to_numpy()))
                    for one in (at.loc[[key]] for key in shown)
                ]
                middle, low, high = torch.tensor(found).T
                places = torch.arange(len(shown)) + shift
                axis.errorbar(
                    middle,
                    places,
                    xerr=torch.stack((middle - low, high - middle)),
                    fmt=marker,
                    ms=4,
                    lw=0.9,
                    color=COLOURS["easy" if probe == MLP else "hard"],
                    label=_PROBE_NAMES[probe],
                )
            _beside_lines(axis, table, METRICS[0], source, upright=True)
            axis.set_yticks(range(len(shown)), list(shown.values()))
            axis.invert_yaxis()
            axis.set_xlim(left=0)
            axis.set_xlabel(f"{LABELS[METRICS[0]]}, last site")
            axis.set_title(source)
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return drawn


def _beside_lines(
    axis: "Axes", table: pd.DataFrame, metric: str, source: str, upright: bool = False
) -> None:
    """Draw a line for the mean pose, and one for a model's own output."""
    rows = table[table.metric == metric]
    output = rows[(rows.probe == OUTPUT) & (rows.source == source)]
    lines = {
        AVERAGE: (rows[rows.probe == AVERAGE], COLOURS["control"], "-."),
        "the model's output": (output, COLOURS["all"], "--"),
    }
    for label, (found, colour, style) in lines.items():
        middle = float(found.value.median())
        draw = axis.axvline if upright else axis.axhline
        draw(middle, color=colour, ls=style, lw=0.9, label=label)
