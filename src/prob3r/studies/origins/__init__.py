"""C4, where matches come from: when do correspondence heads appear during training?

The model under test, its checkpoints and its variants see the same pairs, at the image size of
the checkpoints. Of each, PCK@1 and cycle consistency of every head of view 2's
cross-attention are measured (a *correspondence head* is defined in `heads.py`), and the rotation
error of the output, all with the control that shows the view 1 of another pair.

The name of a checkpoint gives the number of training pairs that it has seen (`checkpoints.py`).
Models with other names are variants, which figures show beside the time axis.

- The *plateau* of the mean pose is where the model turns view 2 no better than its control. It is
  *broken* at the first checkpoint whose median rotation error is below the control's, with
  disjoint 95 % intervals, if the same holds of all checkpoints after them.
- Heads *appear* at the first checkpoint with a correspondence head, and are *spread* at the
  first with one in at least half of the blocks, if the same holds of all checkpoints after them.

Rules; intervals are bootstrapped over pairs, and all models share the pairs of a draw. The
definitions of a correspondence head and of a broken plateau use intervals themselves. In a draw
such an interval is the draw's median with the interval's distance from the median of all pairs, and
the maximum of the control is that of all pairs. Draws without heads or without a broken plateau are
left out.

- *Correspondence heads appear before the plateau breaks* and *Correspondence heads spread before
  the plateau breaks*: supported if the heads come at an earlier checkpoint, the interval of the
  number of pairs between the two excluding zero; not supported if they come at a later checkpoint,
  with such an interval; mixed if they come at the same checkpoint, the interval contains zero, or
  either does not occur.
"""

from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor

from prob3r.measures.attention import PEAKS
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.heads import head_table, match_sites
from prob3r.measures.statistics import interval
from prob3r.models import Model
from prob3r.runs.trace import trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.views import Pair
from prob3r.studies.framework.figures import PAGE, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, decide
from prob3r.studies.origins.checkpoints import onset, pairs_seen
from prob3r.studies.origins.figures import draw_best_heads, draw_matches, draw_rotation, entries
from prob3r.studies.origins.history import CHECKPOINT, TESTED, VARIANT, History, history_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("pck@1", "cycle consistency")


class Origins(Study):
    """C4: matches along training, and those of variants."""

    name = "origins"
    title = "Where matches come from"
    place = 7
    output = True
    attention = BETWEEN
    data = "rooms:test@64"  # the image size at which most of the training was done
    batch = 32
    most = 128

    def check(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if there are no checkpoints to compare the model with."""
        super().check(tested)
        references = comparable(tested)
        if not references:
            raise LackingError(
                f"The study '{self.name}' needs checkpoints of a training; give --checkpoints "
                "FOLDER."
            )
        pairs_seen(references)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the matches of every head and the rotation error of every model."""
        references = comparable(tested)
        along = pairs_seen(references)
        parts = [_measured(tested.model, pair).assign(model=tested.name, role=TESTED)]
        for name in [*along, *(name for name in references if name not in along)]:
            role = CHECKPOINT if name in along else VARIANT
            parts.append(_measured(references[name], pair).assign(model=name, role=role))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers, if there are checkpoints."""
        if not (table.role == CHECKPOINT).any():
            return []
        history = history_of(table)
        return [_before(history, spread=False), _before(history, spread=True)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return matches and rotation along training, and the heads of every model by block."""
        if not (table.role == CHECKPOINT).any():
            with figure(width=PAGE / 2, height=2.8) as (drawn, axes):
                draw_best_heads(axes[0], table)
            return {"origins": drawn}
        history = history_of(table)
        with figure(1, 3, PAGE, 2.8) as (drawn, axes):
            draw_matches(axes[0], table, history)
            draw_rotation(axes[1], table, history)
            draw_best_heads(axes[2], table)
            drawn.legend(*entries(axes[:2]), loc="outside lower center", ncols=4)
        return {"origins": drawn}


def comparable(tested: ModelUnderTest) -> dict[str, Model]:
    """Return the reference models of the same architecture and shape."""
    own = tested.model
    return {
        name: model
        for name, model in tested.references.items()
        if type(model) is type(own) and model.config == own.config
    }


def _measured(model: Model, pair: Pair) -> pd.DataFrame:
    """Return the matches and the rotation error of one model, on the pairs and on the control."""
    matches = pair.patch_matches(model.config.patch)
    control = shuffled(pair)
    parts = []
    for source, seen in (("model", pair), (SHUFFLED, control.pair)):
        run = trace(model, seen, match_sites(model), reductions=PEAKS)
        assert run.output is not None
        heads = head_table(run, model, pair, matches, source)
        rotation = pair.errors_of(run.output.points).rotation_error.cpu().numpy()
        rows = {"pair": range(len(pair)), "source": source, "metric": "rotation_error"}
        found = [heads[heads.metric.isin(_METRICS)], pd.DataFrame(rows | {"value": rotation})]
        parts += found if seen is pair else [control.masked(part) for part in found]
    return pd.concat(parts, ignore_index=True)


def _before(history: History, spread: bool) -> Finding:
    """Return whether heads appear, or are spread, before the plateau breaks."""
    least = history.depth / 2 if spread else 1
    heads, broken = (onset(s, history.seen) for s in (history.blocks >= least, history.broken))
    gap = interval((broken - heads)[0], (broken - heads)[1:])
    verdict = decide(gap.value > 0 and gap.low > 0, gap.value < 0 and gap.high < 0)
    found = ", ".join(
        f"{number} in {int(blocks)} blocks at {float(seen):.1f}"
        for seen, number, blocks in zip(history.seen, history.heads, history.blocks[0], strict=True)
    )
    return Finding(
        "C4",
        f"Correspondence heads {'spread' if spread else 'appear'} before the plateau breaks",
        verdict,
        *gap,
        unit=f"thousands of training pairs{history.since}, plateau's end less heads",
        control=f"the plateau, where view 1 may as well be shuffled, ends {_at(broken[0])}; heads "
        f"{'spread' if spread else 'appear'} {_at(heads[0])}; correspondence heads: {found}",
        pairs=history.pairs,
    )


def _at(seen: Tensor) -> str:
    return "at no checkpoint" if seen.isnan() else f"at {float(seen):.1f} thousand pairs"
