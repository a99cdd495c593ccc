"""The figures of the study of dictionaries."""

from typing import TYPE_CHECKING

import pandas as pd

from prob3r.measures.atoms import TESTS
from prob3r.measures.statistics import median_interval
from prob3r.probes.dictionary import FIRST, LARGEST, NEURONS, PRINCIPAL, RANDOM
from prob3r.studies.dictionaries.rows import (
    ATOMS,
    MEAN,
    METRICS,
    UNEXPLAINED,
    UNTRAINED,
    places_of,
    sources_of,
    values_of,
)
from prob3r.studies.framework.figures import COLOURS, PAGE, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {
    ATOMS: COLOURS["hard"],
    FIRST: COLOURS["easy"],
    LARGEST: "#56b4e9",
    PRINCIPAL: COLOURS["easy"],
    RANDOM: COLOURS["classical"],
    NEURONS: COLOURS["self_attn"],
    UNTRAINED: COLOURS["control"],
    MEAN: COLOURS["all"],
}


def draw_lost(table: pd.DataFrame) -> "Figure":
    """Draw the unexplained share and the rotation error after a splice, by coder and place."""
    places = places_of(table)
    with figure(1, 2, PAGE, 2.4) as (drawn, axes):
        for axis, metric in zip(axes, (UNEXPLAINED, METRICS[0]), strict=True):
            for number, source in enumerate(sources_of(table, metric)):
                if source not in _COLOURS or (source == UNTRAINED and metric == METRICS[0]):
                    continue
                found = [median_interval(values_of(table, metric, source, p)) for p in places]
                middle = [each.value for each in found]
                ends = [[v.value - v.low for v in found], [v.high - v.value for v in found]]
                at = [i + 0.1 * (number - 2) for i in range(len(places))]
                axis.errorbar(
                    at, middle, ends, fmt="o", ms=3.5, color=_COLOURS[source], label=source
                )
            axis.set_xticks(range(len(places)), places)
            axis.set_xlabel("place")
        axes[0].set_ylabel("share of the variance unexplained")
        axes[1].set_ylabel("rotation error (degrees), spliced")
        clean = median_interval(values_of(table, METRICS[0], "clean")).value
        axes[1].axhline(clean, color=COLOURS["all"], ls=":", label="clean")
        handles = {h: label for a in axes for h, label in zip(*a.get_legend_handles_labels())}  # noqa: B905
        unique = {label: handle for handle, label in handles.items()}
        drawn.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=7)
    return drawn


def draw_told(table: pd.DataFrame) -> "Figure":
    """Draw the mean score of the best unit of every coder, test by test, and its control."""
    tests = [test for test in TESTS if (table.metric == test).any()]
    sources = sources_of(table, tests[0])
    with figure(1, 1, PAGE, 2.6) as (drawn, (axis,)):
        width = 0.8 / len(sources)
        for number, source in enumerate(sources):
            at = [i + width * (number - (len(sources) - 1) / 2) for i in range(len(tests))]
            scores = [float(values_of(table, t, source).nanmean()) for t in tests]
            controls = [
                float(values_of(table, t, source, column="control").nanmean()) for t in tests
            ]
            axis.bar(at, scores, width, color=_COLOURS[source], label=source)
            axis.plot(at, controls, "_", color="#000000", ms=5)
        axis.set_xticks(range(len(tests)), tests, rotation=35, ha="right")
        axis.set_xlabel("test; black marks: the same unit against the control")
        axis.set_ylabel("mean score of the best unit")
        drawn.legend(loc="outside upper center", ncols=5)
    return drawn
