"""N2 and N3, middle blocks: where are the views brought together, and what needs the deep blocks?

In a window of blocks, the attention between views is ablated in every view. A window is a sixth of
the blocks that have such attention, at least one block, and every window is tried. In the mode
`zero` the sublayer adds nothing (`Skip`); in `mean` the output of every head is replaced by its
mean over a sample of the scenes; in `resample` by its output in another scene of the batch. A
control does the same, in the mode `zero`, to the attention within the views (self-attention).

A window is of the first, the middle or the last third of the depth by its centre. Losses are those
of `prob3r.studies.cuts.losses`. The cameras are those that the model states, or else those that its
points tell; of a model that states cameras, the findings report both.

Rules, with 95 % bootstrap intervals over scenes:

- N2, *the middle blocks bring the views together*: the effect is the largest loss of AUC@30 by any
  window of the middle third, less the largest by any window of the two others. The windows are
  chosen by every other scene and measured on the rest, and the other way round: the largest of
  several is large by chance, too. In one mode it is supported if the interval is above zero, and
  not supported if it is below zero; else mixed. The verdict is that of all three modes if they
  agree; else mixed. It is mixed at most if the same windows of self-attention do as much in the
  mode `zero` (the interval of the difference is not above zero): the middle is then sensitive to
  whatever is cut.
- N3, *deep attention between views is needed for pose and redundant for dense geometry*: the effect
  is the loss of pose (the rotation error) less the loss of shape (the shape error), mean over the
  windows of the last third. The control is the same over the windows of the first third. In one
  mode it is supported if the effect is above zero and above the control, both intervals excluding
  zero; not supported if the effect is below zero or below the control, with an interval that
  excludes zero; else mixed. Over the modes the rule is that of N2.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.measures.scenes import POINTS
from prob3r.measures.statistics import as_text, median_interval, wide
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import HEADS
from prob3r.runs.donated import Donated
from prob3r.runs.edits import Edit, HeadAblation, Means, Setting, Skip, head_means
from prob3r.runs.trace import trace
from prob3r.scenes.sampling import sampled_batches
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Views
from prob3r.studies.cuts.effects import camera_metric, effects_of
from prob3r.studies.cuts.losses import (
    LOSS_LABELS,
    LOSS_WORDS,
    SHAPE,
    camera_auc,
    loss_curve,
    loss_interval,
    loss_metrics,
    over_modes,
    total_loss,
    with_losses,
)
from prob3r.studies.frame_attention import meeting
from prob3r.studies.framework.figures import COLOURS, PAGE, band, figure
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding, Verdict, decide, is_above_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOWS = 6  # to the depth
MEAN_SCENES = 64
ZERO, MEAN, RESAMPLE = MODES = ("zero", "mean", "resample")
BETWEEN_THEM, WITHIN_EACH = "between", "within"
FIRST, MIDDLE, LAST = THIRDS = (0, 1, 2)

_STYLES = {ZERO: "-", MEAN: "--", RESAMPLE: ":"}


class BlockWindow(NamedTuple):
    """A window of blocks that is ablated.

    Attributes:
        kind: The attention that is ablated: `between` the views, or `within` each of them.
        mode: The mode of the ablation.
        start: Index of its first block among the blocks with attention between views.
        size: Number of blocks in the window.
        depth: Number of blocks with attention between views in the model.
    """

    kind: str
    mode: str
    start: int
    size: int
    depth: int

    @property
    def third(self) -> int:
        """The third of the depth in which its centre is."""
        return min(int(3 * (self.start + self.size / 2) / self.depth), LAST)


class MiddleBlocks(Study[Views]):
    """N2 and N3: windows of attention between views ablated, over the depth."""

    name = "middle_blocks"
    title = "Where the views are brought together"
    prepared_on = MEAN_SCENES
    place = 12
    views = 4
    batch = 4
    most = 128
    output = True
    attention = BETWEEN
    means: Means | None = None

    def check(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if the model lacks what the study needs."""
        super().check(tested)
        if len(meeting(trunk(tested.model))) < len(THIRDS):
            raise LackingError(
                f"The study '{self.name}' needs three blocks with attention between views or more, "
                f"and {tested.name} has {len(meeting(trunk(tested.model)))}."
            )

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Views]) -> None:
        """Compute the means of all heads' outputs over a sample of the scenes."""
        device = next(tested.model.parameters()).device
        few = sampled_batches(pairs, MEAN_SCENES, self.batch, device)
        self.means = head_means(tested.model, few)

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        """Return the effect of ablating every window on every error, by `effects_of`."""
        assert self.means is not None  # `prepare` comes first
        return effects_of(tested.model, scenes, windows(tested.model, scenes, self.means))

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to N2 and N3."""
        return [_middle(table), _deep(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the losses over the place of the window, in every mode."""
        metrics = loss_metrics(table)
        with figure(1, len(metrics), PAGE, 2.5) as (drawn, axes):
            for axis, metric in zip(axes, metrics, strict=True):
                depth = int(table.depth.iloc[0])
                ends = depth / 3 - 0.5, 2 * depth / 3 - 0.5
                axis.axvspan(*ends, color="#e6eaee", lw=0, label="middle third")
                axis.axhline(0, color=COLOURS["all"], lw=0.6)
                for mode in MODES:
                    label = f"between, {mode}"
                    _draw(axis, table, metric, BETWEEN_THEM, mode, "global_attn", label)
                _draw(axis, table, metric, WITHIN_EACH, ZERO, "self_attn", "within, zero")
                axis.set_xticks(range(0, depth, 1 + depth // 9))
                axis.set_xlabel("block\n(centre of window)")
                axis.set_ylabel(LOSS_LABELS[metric])
            handles, labels = axes[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside lower center", ncols=5)
        return {"windows": drawn}


def windows(model: Model, scenes: Views, means: Means) -> dict[BlockWindow, Sequence[Edit]]:
    """Return the edits of every window in every mode, for a batch of scenes."""
    stack = trunk(model)
    between = list(meeting(stack).items())
    depth = len(between)
    size = max(1, round(depth / WINDOWS))
    setting = Setting.of(model, scenes)
    sites = [site for _, patterns in between for p in patterns for site in setting.sites(p)]
    outputs = [str(site.read(HEADS)) for site in sites]
    donated = Donated.of(scenes, trace(model, scenes, outputs, output=False))
    edits: dict[BlockWindow, Sequence[Edit]] = {}
    for start in range(depth - size + 1):
        chosen = between[start : start + size]
        patterns = [pattern for _, of_block in chosen for pattern in of_block]
        within = [
            Skip(f"{stack.name}*.{block}.self_attn")
            for block, _ in chosen
            if "self_attn" in stack.sublayers[block]
        ]
        window = BlockWindow(BETWEEN_THEM, ZERO, start, size, depth)
        edits[window] = [Skip(pattern) for pattern in patterns]
        edits[window._replace(mode=MEAN)] = [
            HeadAblation(pattern, mode=MEAN, source=means) for pattern in patterns
        ]
        if donated.rows:
            edits[window._replace(mode=RESAMPLE)] = [
                HeadAblation(p, mode=RESAMPLE, source=donated.records, scenes=donated.rows)
                for p in patterns
            ]
        if within:
            edits[window._replace(kind=WITHIN_EACH)] = within
    return edits


def by_window(
    table: pd.DataFrame, metric: str, kind: str, mode: str
) -> tuple[list[BlockWindow], Float[Tensor, "n s"]]:
    """Return the windows in order, and the loss of every scene by each window."""
    rows = table[(table.metric == metric) & (table.kind == kind) & (table["mode"] == mode)]
    starts, losses = wide(with_losses(rows).sort_values("start"), "start")
    size, depth = (int(table[column].iloc[0]) for column in ("size", "depth"))
    return [BlockWindow(kind, mode, int(start), size, depth) for start in starts], losses


def _draw(
    axis: "Axes", table: pd.DataFrame, metric: str, kind: str, mode: str, colour: str, label: str
) -> None:
    places, losses = by_window(table, metric, kind, mode)
    if places:
        centres = [window.start + (window.size - 1) / 2 for window in places]
        curve = loss_curve(losses, metric)
        band(axis, centres, *curve, COLOURS[colour], label, _STYLES[mode])


def _peak(
    places: list[BlockWindow], losses: Float[Tensor, "n s"], metric: str
) -> Float[Tensor, " n"]:
    """Return every scene's loss by the costliest middle window, less that by the costliest other.

    The windows are the costliest ones of the other half of the scenes.
    """
    inside = torch.tensor([window.third == MIDDLE for window in places])
    odd = torch.arange(len(losses)) % 2 == 1
    found = torch.full_like(losses[:, 0], torch.nan)
    for half in (odd, ~odd):
        total = total_loss(losses[~half], metric).nan_to_num(-torch.inf)
        middle, other = (total.masked_fill(~of, -torch.inf).argmax() for of in (inside, ~inside))
        found[half] = losses[half, middle] - losses[half, other]
    return found


def _middle(table: pd.DataFrame) -> Finding:
    metric = camera_auc(table)
    peaks: dict[str, Float[Tensor, " n"]] = {}
    for mode in MODES:
        places, losses = by_window(table, metric, BETWEEN_THEM, mode)
        if places:
            peaks[mode] = _peak(places, losses, metric)
    effects = {mode: loss_interval(peak, metric) for mode, peak in peaks.items()}
    verdict = over_modes([is_above_zero(effect) for effect in effects.values()])
    told = [f"{mode} {as_text(effect, 3)}" for mode, effect in effects.items() if mode != ZERO]
    places, losses = by_window(table, metric, WITHIN_EACH, ZERO)
    if places:
        own = _peak(places, losses, metric)
        more = loss_interval(peaks[ZERO] - own, metric)
        told.append(
            f"self-attention, zero {as_text(loss_interval(own, metric), 3)}, difference "
            f"{as_text(more, 3)}"
        )
        if verdict == "supported" and more.low <= 0:
            verdict = "mixed"
    places, losses = by_window(table, metric, BETWEEN_THEM, ZERO)
    largest = places[int(total_loss(losses, metric).argmax())]
    worst = f"the one from block {largest.start} of {largest.depth} (from 0)"
    return Finding(
        "N2",
        "The middle blocks bring the views together",
        verdict,
        *effects[ZERO],
        unit=f"{LOSS_WORDS[metric]}, zero, the costliest window of the middle third less that of "
        "the others",
        control="; ".join([f"{worst} is the costliest window", *told]),
        pairs=len(losses),
    )


def _excess(table: pd.DataFrame, rotation: str, mode: str, third: int) -> Float[Tensor, " n"]:
    """Return every scene's loss of pose less its loss of shape, mean over a third's windows."""
    means = []
    for metric in (rotation, SHAPE):
        places, losses = by_window(table, metric, BETWEEN_THEM, mode)
        chosen = torch.tensor([window.third == third for window in places])
        means.append(losses[:, chosen].mean(1))
    return means[0] - means[1]


def _deep(table: pd.DataFrame) -> Finding:
    rotation = camera_metric(table)
    verdicts, told = list[Verdict](), list[str]()
    effects: dict[str, Interval] = {}
    count = 0
    for mode in MODES:
        if not by_window(table, SHAPE, BETWEEN_THEM, mode)[0]:
            continue
        deep, shallow = (_excess(table, rotation, mode, third) for third in (LAST, FIRST))
        effect, more = median_interval(deep), median_interval(deep - shallow)
        verdicts.append(decide(effect.low > 0 and more.low > 0, effect.high < 0 or more.high < 0))
        effects[mode], count = effect, max(count, len(deep))
        told.append(
            f"{mode}: last third {as_text(effect, 3)}, first third "
            f"{as_text(median_interval(shallow), 3)}, difference {as_text(more, 3)}"
        )
    points = f"{POINTS} rotation_error"
    if rotation != points:
        other = median_interval(_excess(table, points, ZERO, LAST))
        told.append(f"cameras told by the points, zero: last third {as_text(other, 3)}")
    return Finding(
        "N3",
        "Deep attention between views is needed for pose and redundant for dense geometry",
        over_modes(verdicts),
        *effects[ZERO],
        unit="log of the rise of the rotation error less that of the shape error, last third, zero",
        control="; ".join(told),
        pairs=count,
    )
