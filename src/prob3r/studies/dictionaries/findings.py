"""The findings of the study of dictionaries, by the rules in the docstring of the study."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval, bootstrap_interval, median
from prob3r.measures.atoms import TESTS
from prob3r.measures.statistics import as_text, median_interval
from prob3r.probes.dictionary import FIRST, LARGEST, RANDOM
from prob3r.studies.dictionaries.rows import (
    ACTIVE,
    ATOMS,
    CLEAN,
    MEAN,
    METRICS,
    MOVED,
    RIVALS,
    UNEXPLAINED,
    UNTRAINED,
    places_of,
    sources_of,
    values_of,
)
from prob3r.studies.framework.verdict import NOT_MEASURABLE, Finding, decide

CLAIM = "atoms"
LEVEL = 1 - 0.05 / len(TESTS)

WORDS = {
    "floor": "the floor",
    "edge": "edges of depth",
    "covisible": "what the other view sees",
    "depth": "depth",
    "normal x": "surfaces that face left or right",
    "normal y": "surfaces that face up or down",
    "normal z": "surfaces that face the camera",
    "instance": "an object in both views",
    "match": "matching patches",
}


def lost_findings(table: pd.DataFrame) -> list[Finding]:
    """Return the findings on the unexplained share, and on the rotation error after a splice."""
    return [
        _lost(
            table,
            UNEXPLAINED,
            "Atoms explain more of the stream than as many principal coefficients",
            "share of the variance unexplained, atoms less principal",
            3,
        ),
        _lost(
            table,
            METRICS[0],
            "Spliced back, atoms harm the pose less than as many principal coefficients",
            "degrees of rotation error, atoms spliced less principal",
            2,
        ),
    ]


def _lost(table: pd.DataFrame, metric: str, statement: str, unit: str, places: int) -> Finding:
    intervals, words = [], []
    for place in places_of(table):
        values = {name: values_of(table, metric, name, place) for name in (ATOMS, FIRST, LARGEST)}
        better = min((FIRST, LARGEST), key=lambda name: float(median(values[name])))
        intervals.append(median_interval(values[ATOMS] - values[better]))
        words.append(f"`{place}`: {_levels(table, metric, place, places)}{_beside(table, place)}")
    below = [found.high < 0 for found in intervals]
    worst = max(intervals, key=lambda found: found.high)
    control = "; ".join(words)
    if metric in METRICS:
        control = f"clean {_level(values_of(table, metric, CLEAN), places)}; {control}"
    count = int((~values_of(table, metric, ATOMS, places_of(table)[0]).isnan()).sum())
    return Finding(
        CLAIM, statement, decide(all(below), not any(below)), *worst, unit, control, count
    )


def _levels(table: pd.DataFrame, metric: str, place: str, places: int) -> str:
    """Return the medians of every coder at a place."""
    found = {
        name: values_of(table, metric, name, place)
        for name in (ATOMS, FIRST, LARGEST, RANDOM, MEAN, UNTRAINED)
    }
    if metric in METRICS:
        del found[UNTRAINED]  # whose output has no pose
    return ", ".join(
        f"{name} {_level(values, places)}"
        for name, values in found.items()
        if not values.isnan().all()
    )


def _beside(table: pd.DataFrame, place: str) -> str:
    """Return, as text, how far splices move the output, and how many atoms are active and dead."""
    moved = ", ".join(
        f"{name} {float(median(values)):.3f}"
        for name in (ATOMS, FIRST, LARGEST, UNTRAINED)
        if not (values := values_of(table, MOVED, name, place)).isnan().all()
    )
    active = float(median(values_of(table, ACTIVE, ATOMS, place)))
    dead = values_of(table, ACTIVE, ATOMS, place, "dead").nanmean()
    return f" (moved: {moved}; {active:.1f} atoms active, {100 * float(dead):.0f} % dead)"


def _level(values: Float[Tensor, " n"], places: int) -> str:
    return as_text(median_interval(values), places, "-")


def told_findings(table: pd.DataFrame) -> list[Finding]:
    """Return for each test whether an atom tells it beyond the controls."""
    measured = table[table.source == ATOMS]
    return [_told(table, test) for test in TESTS if (measured.metric == test).any()]


def _told(table: pd.DataFrame, test: str) -> Finding:
    found = {source: values_of(table, test, source) for source in sources_of(table, test)}
    rival = max(
        (name for name in RIVALS if name in found),
        key=lambda name: _mean(found[name]).value,
    )
    atom = found[ATOMS]
    over = _mean(atom - values_of(table, test, ATOMS, column="control"))
    gain = _mean(atom - found[rival])
    learned = _mean(atom - found[UNTRAINED]) if UNTRAINED in found else NOT_MEASURABLE
    gains = [gain] if UNTRAINED not in found else [gain, learned]
    verdict = decide(
        over.low > 0 and all(each.low > 0 for each in gains),
        over.low <= 0 or any(each.high < 0 for each in gains),
    )
    rows = table[table.metric == test].drop_duplicates("source").set_index("source")
    best = rows.loc[ATOMS]
    levels = ", ".join(
        f"{name} {_mean_text(values)} ({rows.loc[name].beyond:.0f} of {rows.loc[name].units:.0f} "
        "units above every control)"
        for name, values in found.items()
    )
    return Finding(
        CLAIM,
        f"{_subject(test)}: atom {best.unit:.0f} of `{best.site}`",
        verdict,
        *gain,
        unit=f"score, atom less the best of the same streams ({rival})",
        control=f"atom less its own control {as_text(over)}; less the best atom of the untrained "
        f"model {as_text(learned)}; scores: {levels}",
        pairs=int((~atom.isnan()).sum()),
    )


def _subject(test: str) -> str:
    """Return the statement of a test in words."""
    within = test.removeprefix("strongest ")
    if test == within:
        return f"An atom tells {WORDS[test]}"
    return f"The strongest patches of an atom show {WORDS[within]}"


def _mean(values: Float[Tensor, " n"]) -> Interval:
    """Return the mean over pairs, with an interval that is corrected for the number of tests."""
    generator = torch.Generator().manual_seed(0)
    return bootstrap_interval(values, lambda v: v.mean(-1), LEVEL, generator=generator)


def _mean_text(values: Float[Tensor, " n"]) -> str:
    return as_text(_mean(values))
