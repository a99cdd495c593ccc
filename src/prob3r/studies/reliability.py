"""Reliability, past the paper: can the inside tell that the outcome is wrong?

An outcome is wrong if the rotation error of view 2's pose is above 15 degrees. This is predicted
from signals of one run, without any truth (`signals.py`). There are three groups: the model's own
*confidence* in both views; the rest of its *output*, that is, whether one camera explains view 2
and how much the views overlap; and its *inside*: how far late probes are from the output, how much
view 2 still turns in late blocks, and whether late cross-attention is cycle-consistent, agrees with
the output, and is spread out.

Signals are combined by a logistic regression with a ridge, in which the sign of each weight is
fixed by the meaning of the signal (`prediction.py`). It is cross-fitted over five stretches of the
pairs: each pair is judged by a fit that never saw it. Confidence alone, in both views together, is
treated in the same way. `output` combines confidence and the rest of the output, `inside` uses only
the inside, and `all` combines all signals. The AUROC is how often a wrong outcome is given more
doubt than a right one; 0.5 is chance. Intervals resample the pairs and keep the fits.

Rules, with 95 % bootstrap intervals over pairs:

- *The inside predicts failure better than the model's own confidence*: supported if the AUROC of
  all signals combined less that of confidence has an interval above zero, not supported if below,
  else mixed.
- *The inside tells more than the whole output does*: the same for all signals less `output`.

If LightGlue is installed, an independent check is added to the signals: matches that are found in
the photographs alone, with intrinsics estimated from the output. Its signals are the angle between
the rotation of the matches and that of the output (15 degrees where there is no pose to compare),
and the number of matches that agree on a pose. Rooms of few pixels are rendered with four times the
pixels along each side for the matches. `check` combines both signals. Then there are two more
rules:

- *The independent check predicts failure better than the model's own confidence*: as above, for the
  AUROC of the check less that of confidence.
- *The independent check adds to all signals of the run*: for all signals and the check, less all
  signals.

With fewer than five wrong outcomes, or fewer than five right ones, nothing is measurable: the
verdict is mixed, without a number. The control is a combination fitted on the outcomes of other
pairs, which must be at chance.
"""

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.geometry import percentiles
from prob3r.measures.statistics import as_text, interval, resampled, wide
from prob3r.reliability.calibration import WRONG, by_group, columns_of
from prob3r.reliability.check import check_pairs, signals_of
from prob3r.reliability.matchers import LIGHTGLUE, is_installed
from prob3r.reliability.prediction import (
    FEWEST,
    auroc,
    auroc_draws,
    auroc_interval,
    bin_of,
    calibration_bins,
    calibration_error,
    cross_fitted,
    measurable,
    redrawn,
    risk_coverage,
)
from prob3r.reliability.signals import (
    CHECK,
    CHECK_GROUPS,
    CHECK_SIGNALS,
    EVERY_SIGNAL,
    GROUPS,
    SIGNALS,
    WITH_CHECK,
    Signal,
    features,
    read_signals,
)
from prob3r.rooms import Rooms
from prob3r.rooms.larger import larger_rooms, with_fine
from prob3r.scenes.source import Pairs
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import BETWEEN, Study, stratum
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import NOT_MEASURABLE, Finding, is_above_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "confidence": "confidence, both views",
    "output": "the whole output",
    "inside": "the inside alone",
    "all": "all combined",
}
CHECK_WORDS = {
    CHECK: "the independent check",
    "confidence and check": "confidence and check",
    WITH_CHECK: "all and the check",
}
"""Names of the combinations in figures."""

COMBINED = {
    "all": "all signals combined",
    CHECK: "the independent check",
    WITH_CHECK: "all signals and the check",
}
"""Names of the combinations in findings."""

EVERY_GROUP = {**GROUPS, **CHECK_GROUPS}

STRATA = {"all": "all pairs", "easy": "easy pairs", "hard": "hard pairs"}


class Reliability(Study):
    """Past the paper: failures predicted from one run, compared with the model's confidence."""

    name = "reliability"
    title = "Whether the inside knows that the outcome is wrong"
    place = 9
    output = True
    probes = True
    attention = BETWEEN

    def __init__(self) -> None:
        self.larger: Rooms | None = None

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Set up the larger views for the check, if the pairs are small rooms."""
        self.larger = larger_rooms(pairs)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return every signal of every pair, and its true rotation error."""
        signals, output = read_signals(tested.model, pair, tested.bank())
        if is_installed(LIGHTGLUE):
            checks = check_pairs(with_fine(pair, self.larger), output, LIGHTGLUE)
            signals |= signals_of(checks)
        values = signals | {"rotation_error": pair.errors_of(output.points).rotation_error}
        parts = [
            pd.DataFrame({"pair": range(len(pair)), "metric": name, "value": found.cpu().numpy()})
            for name, found in values.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the findings of both rules, and of two more rules if there is a check."""
        outcomes = Outcomes.of(table)
        findings = [
            _better(
                outcomes,
                "all",
                "confidence",
                "The inside predicts failure better than the model's own confidence",
            ),
            _better(outcomes, "all", "output", "The inside tells more than the whole output does"),
        ]
        if outcomes.checked:
            findings += [
                _better(
                    outcomes,
                    CHECK,
                    "confidence",
                    "The independent check predicts failure better than the model's own confidence",
                ),
                _better(
                    outcomes,
                    WITH_CHECK,
                    "all",
                    "The independent check adds to all signals of the run",
                ),
            ]
        return findings

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return figures of the AUROC of each signal, and of the calibration of the combination."""
        outcomes = Outcomes.of(table)
        if not measurable(outcomes.failed):
            return {}
        with figure(1, 1, PAGE, 3.2) as (signals, axes):
            _draw_aurocs(axes[0], table, outcomes)
        with figure(1, 2, PAGE, 2.5) as (trust, axes):
            _draw_risk(axes[0], outcomes)
            _draw_calibration(axes[1], outcomes)
        return {"signals": signals, "trust": trust}


class Outcomes(NamedTuple):
    """Pairs whose outcome is known, with their signals and predictions.

    Attributes:
        pairs: The numbers of the pairs.
        rows: The columns of `signals.features`; those of the check come last, if there are any.
        errors: Rotation errors in degrees.
        failed: Whether the outcome is wrong.
        stated: Cross-fitted probabilities of a wrong outcome, by group of signals; empty if nothing
            is measurable.
    """

    pairs: list[int]
    rows: Float[Tensor, "n s"]
    errors: Float[Tensor, " n"]
    failed: Bool[Tensor, " n"]
    stated: dict[str, Float[Tensor, " n"]]

    @property
    def checked(self) -> bool:
        """Whether there are signals of an independent check."""
        return self.rows.shape[1] > len(SIGNALS)

    @property
    def signals(self) -> list[Signal]:
        """The signal of each column."""
        return list(EVERY_SIGNAL.values())[: self.rows.shape[1]]

    @property
    def words(self) -> dict[str, str]:
        """The names of the combinations in figures."""
        return WORDS | CHECK_WORDS if self.checked else WORDS

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Outcomes":
        """Return the outcomes of a study's table."""
        known = table[table.metric == "rotation_error"].dropna(subset="value").pair
        names, values = wide(table[table.pair.isin(known)], "metric")
        columns = dict(zip(names, values.T, strict=True))
        errors = columns.pop("rotation_error")
        known_names = EVERY_SIGNAL if CHECK_SIGNALS.keys() <= columns.keys() else SIGNALS
        rows, failed = features(columns, known_names), errors > WRONG
        stated = by_group(rows, failed) if measurable(failed) else {}
        return cls(sorted(known), rows, errors, failed, stated)


def _better(outcomes: Outcomes, group: str, other: str, statement: str) -> Finding:
    """Return whether one group of signals combined predicts better than another."""
    failed, stated = outcomes.failed, outcomes.stated
    wrong = f"{int(failed.sum())} of {len(failed)} outcomes are off by more than {WRONG:g} degrees"
    if not stated:
        gap = NOT_MEASURABLE
        control = f"{wrong}; at least {FEWEST} have to be, and {FEWEST} not, to tell them apart"
    else:
        drawn = auroc_draws(stated[group], failed) - auroc_draws(stated[other], failed)
        gap = interval(auroc(stated[group], failed) - auroc(stated[other], failed), drawn)
        strangers = failed.roll(1)
        rows = outcomes.rows[:, columns_of(EVERY_GROUP[group])]
        chance = auroc_interval(cross_fitted(rows, strangers), strangers)
        error = calibration_error(calibration_bins(stated[group], failed))
        words = outcomes.words if group in CHECK_WORDS else WORDS
        each = ", ".join(
            f"{words[name]} {as_text(auroc_interval(stated[name], failed), 3, '-')}"
            for name in words
        )
        whose = "all" if group == "all" else CHECK_WORDS[group]
        control = (
            f"{wrong}; AUROC of {each}; of {whose}, fitted on the outcomes of other pairs, "
            f"{as_text(chance, 3, '-')}; expected calibration error {error:.3f}"
        )
    return Finding(
        "past the paper",
        statement,
        is_above_zero(gap),
        *gap,
        unit=f"AUROC of {COMBINED[group]}, less that of {WORDS[other]}",
        control=control,
        pairs=len(failed),
    )


def _draw_aurocs(axis: "Axes", table: pd.DataFrame, outcomes: Outcomes) -> None:
    """Draw the AUROC of every signal and every combination, in every stratum that has both."""
    scores = {signal.words: outcomes.rows[:, i] for i, signal in enumerate(outcomes.signals)}
    scores |= {words: outcomes.stated[group] for group, words in outcomes.words.items()}
    for place, (name, label) in enumerate(STRATA.items()):
        members = set(stratum(table, name).pair)
        chosen = torch.tensor([pair in members for pair in outcomes.pairs])
        failed = outcomes.failed[chosen]
        if not measurable(failed):
            continue
        found = [auroc_interval(values[chosen], failed) for values in scores.values()]
        middle = torch.tensor([interval.value for interval in found])
        ends = torch.tensor([(interval.low, interval.high) for interval in found]).T
        axis.errorbar(
            middle,
            torch.arange(len(found)) + 0.25 * (place - 1),
            xerr=(ends - middle).abs(),
            fmt="o",
            ms=3 if name == "all" else 2,
            lw=1 if name == "all" else 0.6,
            color=COLOURS[name],
            label=f"{label} ({int(failed.sum())} of {len(failed)} wrong)",
        )
    axis.axvline(0.5, color=COLOURS["control"], lw=0.6)
    axis.axhline(len(outcomes.signals) - 0.5, color=COLOURS["control"], lw=0.6)
    axis.set_yticks(range(len(scores)), list(scores))
    axis.invert_yaxis()
    axis.set_xlabel(f"AUROC for a rotation error over {WRONG:g}°")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_risk(axis: "Axes", outcomes: Outcomes) -> None:
    """Draw the share of wrong outcomes among the pairs that are trusted most."""
    failed, n = outcomes.failed, len(outcomes.failed)
    coverage = torch.arange(1, n + 1) / n
    shown = coverage >= 0.05  # a share of only a few pairs is not reliable
    drawn = redrawn(n)
    for group, colour, style in (
        ("confidence", COLOURS["hard"], "--"),
        ("all", COLOURS["all"], "-"),
    ):
        doubt = outcomes.stated[group]
        low, high = percentiles(risk_coverage(doubt[drawn], failed[drawn]))
        curve = risk_coverage(doubt, failed)
        kept = coverage[shown].tolist()
        band(axis, kept, curve[shown], low[shown], high[shown], colour, WORDS[group], style)
    best = risk_coverage(outcomes.errors, failed)
    axis.plot(coverage[shown], best[shown], color=COLOURS["control"], label="oracle")
    base = float(failed.double().mean())
    axis.axhline(base, color=COLOURS["control"], ls=":", label="in any order")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 2 * base)
    axis.set_xlabel("share of pairs kept, least doubted first")
    axis.set_ylabel(f"share of them off by over {WRONG:g}°")
    axis.legend(loc="upper left")


def _draw_calibration(axis: "Axes", outcomes: Outcomes) -> None:
    """Draw the share of wrong outcomes against the stated probability (a reliability diagram)."""
    stated, failed = outcomes.stated["all"], outcomes.failed
    bins = calibration_bins(stated, failed)
    used = [k for k, found in enumerate(bins) if found.pairs]
    inside = bin_of(stated)[:, None] == torch.tensor(used)
    by_bin = failed[:, None].double().where(inside, torch.nan)
    low, high = percentiles(resampled(by_bin, lambda values: values.nanmean(-1)))
    share = by_bin.nanmean(0)
    places = [bins[k].stated for k in used]
    colour = COLOURS["all"]
    axis.plot([0, 1], [0, 1], color=COLOURS["control"], ls=":", label="perfectly calibrated")
    around = torch.stack([share - low, high - share]).clamp_min(0)
    axis.errorbar(places, share, yerr=around, fmt="none", lw=0.8, color=colour)
    sizes = [4 + 60 * bins[k].pairs / len(failed) for k in used]
    label = f"{WORDS['all']}, error {calibration_error(bins):.3f}; area: pairs"
    axis.scatter(places, share, s=sizes, color=colour, label=label)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.25)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_xlabel(f"stated probability of an error over {WRONG:g}°")
    axis.set_ylabel("share that had it")
    axis.legend(loc="upper left")
