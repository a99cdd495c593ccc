"""C3, pose: does the model lean on an explicit global camera pose?

The tokens that could carry a pose are the *marked tokens* of `prob3r.measures.tokens`, which
defines sinks, high-norm tokens and special tokens. Sinks are found over the first `SINK_PAIRS`
pairs, the others in each pair. The marked tokens are knocked out of view 2's stream, in both modes
of `Knockout`. (For a model with global attention, read global attention for cross-attention.)

- `head`, `block`, `all sinks`: the sinks are cut as keys in their own heads: of one head, of one
  block's self- and cross-attention, and of all heads.
- `all but the sinks`: in every head that has sinks, all other keys are cut.
- `carriers` (the name of marked tokens in tables): all marked tokens of view 2 are isolated. They
  are cut as keys and as queries in its self- and cross-attention and as keys in view 1's
  cross-attention. So no token attends to them and they attend to none, in any block. The marked
  tokens of view 1 are cut as keys in view 2's cross-attention.

Each cut is compared with its two random controls of `prob3r.measures.tokens`, matched in count and
in attention mass, and cut (or, for `all but the sinks`, kept) in the same way. If the model has no
sinks, the key of every head that receives the most attention is used instead, only in the mode
`mask`, and the findings say so; such a key is not a marked token. In addition, and without
controls, the outputs of all heads of a sublayer are replaced (`zero`; `mean` over the pairs in
which sinks were sought; `resample` from another scene).

The positive control is `mini-vggt`, a model that carries an explicit pose in a camera token. The
same cuts, except those of single heads and blocks, must break the cameras that it states. They use
its own sinks. It sees the same pairs at its own size.

The pose of a model that states cameras is that of its stated cameras; the pose of any other model
is the one that its pointmaps tell.

The effect of a cut is an error of view 2 after it less before it, pair by pair; pairs that have
nothing to cut are left out. A cut *stands out* if its effect on the rotation error less that of
each of the two controls has an interval above zero. Isolated patches are still part of view 2's
pointmap, and count in the errors, as those of the controls do.

Rules, in the mode `mask` (`zero` is reported beside it), for the median over pairs with 95 %
bootstrap intervals:

- *In a model that carries an explicit pose, the same cut breaks the pose*: supported if isolating
  its marked tokens stands out, by more than `BREAKS` degrees over each control; else not supported.
  Left out without `mini-vggt`.
- *Cutting the marked tokens hardly changes the relative pose*: supported if the
  upper end of the effect of isolating them is under `HARDLY` degrees, or if it does not stand out;
  not supported if it stands out and its lower end is over `HARDLY` degrees; else mixed. If the
  positive control does not break or is missing, or if there are no marked tokens, it is always
  mixed, because then the method cannot tell.
- *The pose does not rest on sinks*: supported if cutting all of them does not stand out and
  cutting all but them raises the rotation error more, the interval of the difference excluding
  zero; not supported if cutting them stands out and the difference is not above zero; else mixed.
"""

from typing import TYPE_CHECKING

import pandas as pd

from prob3r.measures.statistics import as_text, median_interval
from prob3r.measures.tokens import CHOSEN, SINK
from prob3r.models import Model
from prob3r.scenes.source import Pairs, Resized
from prob3r.scenes.views import Pair
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import MODEL, POSITIVE, ModelUnderTest, as_shown
from prob3r.studies.framework.verdict import Finding, decide, not_measurable
from prob3r.studies.pose.contrasts import WeighedContrast, by_cut, rows_of, weighed_contrast
from prob3r.studies.pose.figures import draw_block_cuts, draw_head_sinks, draw_knockouts
from prob3r.studies.pose.knockouts import (
    ALL,
    ISOLATED,
    MASK,
    REST,
    STRENGTH,
    ZERO,
    SinksAndMeans,
    knock_out,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINK_PAIRS = 64
BREAKS = 5.0  # degrees that the positive control must lose more than its controls
HARDLY = 2.0  # smaller changes, in degrees, are negligible


class Pose(Study):
    """C3: the effect on the pose of knockouts of all tokens that could carry it."""

    name = "pose"
    title = "No explicit global pose"
    prepared_on = 2 * SINK_PAIRS  # means and sinks
    controls = (POSITIVE,)
    place = 3
    output = True
    attention = BETWEEN
    most = 64

    def __init__(self) -> None:
        self.known: dict[str, SinksAndMeans] = {}

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Find the sinks of the model and of the positive control, and the means of outputs."""
        for name, model in _models(tested).items():
            each = name == MODEL
            shown = pairs if each else Resized(pairs, model)
            self.known[name] = SinksAndMeans.of(model, shown, SINK_PAIRS, self.batch, each)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the effect of every knockout on every error of view 2."""
        parts = [
            knock_out(model, as_shown(name, model, pair), self.known[name]).assign(source=name)
            for name, model in _models(tested).items()
        ]
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the questions of C3 that knockouts can answer."""
        own, positive = (weighed_contrast(table, source, ISOLATED) for source in (MODEL, POSITIVE))
        found = [_hardly(table, own, positive)]
        if positive is not None:
            found.append(_positive(table, positive))
        return [*found, _sinks(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the cuts beside their controls, the heads' sinks, and the blocks."""
        return {
            "cuts": draw_knockouts(table),
            "heads": draw_head_sinks(table),
            "blocks": draw_block_cuts(table),
        }


def _models(tested: ModelUnderTest) -> dict[str, Model]:
    """Return the models that are cut."""
    positive = tested.positive
    return {MODEL: tested.model} | ({} if positive is None else {POSITIVE: positive})


def _hardly(
    table: pd.DataFrame, own: WeighedContrast | None, positive: WeighedContrast | None
) -> Finding:
    statement = "Cutting the marked tokens hardly changes the relative pose"
    if own is None:
        statement = f"{statement}: there are none by definition"
        unit = "degrees of rotation error"
        return not_measurable("C3", statement, unit, "nothing to control for", 0)
    if positive is None:
        method = f"there is no {POSITIVE} to show that the method can tell"
    elif positive.contrast.by_more_than(BREAKS):
        method = f"the same cut breaks {POSITIVE}"
    else:
        method = f"the same cut does not break {POSITIVE} either, so that the method cannot tell"
    can_tell = positive is not None and positive.contrast.by_more_than(BREAKS)
    hardly = own.contrast.effect.high < HARDLY or not own.contrast.stands_out
    verdict = decide(can_tell and hardly, can_tell and own.contrast.effect.low > HARDLY)
    zero = weighed_contrast(table, MODEL, ISOLATED, ZERO)
    assert zero is not None  # what is cut in one mode is cut in the other
    others = [
        (metric.replace("_", " "), weighed_contrast(table, MODEL, ISOLATED, MASK, metric), places)
        for metric, places in (("translation_error", 2), ("shape_error", 3))
    ]
    more = "; ".join(
        f"{name} {as_text(found.contrast.effect, places)}, "
        f"over mass {as_text(found.contrast.over_mass, places)}"
        for name, found, places in others
        if found is not None
    )
    return Finding(
        "C3",
        statement,
        verdict,
        *own.contrast.over_mass,
        unit="degrees of rotation error, marked tokens isolated less random tokens of equal mass",
        control=f"{_told(own)}; with zeroed probabilities {_told(zero)}; {more}; {method}",
        pairs=own.pairs,
    )


def _positive(table: pd.DataFrame, positive: WeighedContrast) -> Finding:
    zero = weighed_contrast(table, POSITIVE, ISOLATED, ZERO)
    assert zero is not None  # what is cut in one mode is cut in the other
    return Finding(
        "C3",
        "In a model that carries an explicit pose, the same cut breaks the pose",
        decide(positive.contrast.by_more_than(BREAKS), refuted=True),
        *positive.contrast.over_mass,
        unit="degrees of rotation error, marked tokens isolated less random tokens of equal mass",
        control=f"{_told(positive)}; with zeroed probabilities {_told(zero)}",
        pairs=positive.pairs,
    )


def _sinks(table: pd.DataFrame) -> Finding:
    strength = table[(table.source == MODEL) & (table.scope == STRENGTH)]
    heads = strength.drop_duplicates(["sublayer", "block", "head"])
    count = int(heads.sinks.sum())
    every, rest = (rows_of(table, MODEL, scope, MASK) for scope in (ALL, REST))
    cut, kept = weighed_contrast(table, MODEL, ALL), weighed_contrast(table, MODEL, REST)
    assert cut is not None  # something stands in where there are no sinks
    assert kept is not None
    gap = median_interval(by_cut(rest)[CHOSEN] - by_cut(every)[CHOSEN])
    verdict = decide(
        not cut.contrast.stands_out and gap.low > 0, cut.contrast.stands_out and gap.low <= 0
    )
    times = float(strength.groupby(["sublayer", "block", "head"]).value.median().max())
    stands_in = "" if count else "; the strongest key of every head stands in for them"
    return Finding(
        "C3",
        f"The pose does not rest on sinks: {count} of {len(heads)} heads have any, keys of over "
        f"{SINK:g} times their share{stands_in}",
        verdict,
        *gap,
        unit="degrees of rotation error, all but the sinks cut less all sinks cut",
        control=f"all sinks: {_told(cut)}; all but the sinks: {_told(kept)}; the strongest key of "
        f"any head takes {times:.1f} times its share",
        pairs=cut.pairs,
    )


def _told(found: WeighedContrast) -> str:
    tokens, mass = (
        [f"{value:{form}}" for value in values]
        for values, form in ((found.tokens, ".0f"), (found.mass, ".3f"))
    )
    return (
        f"effect {as_text(found.contrast.effect)}, over random ones of equal count "
        f"{as_text(found.contrast.over_count)}, of equal mass {as_text(found.contrast.over_mass)} "
        f"({tokens[0]}, {tokens[1]} and {tokens[2]} tokens of mass {mass[0]}, {mass[1]} and "
        f"{mass[2]})"
    )
