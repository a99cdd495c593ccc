"""C3, pose probes: which of view 2's tokens could carry the relative pose?

At the input of the trunk (DUSt3R's decoder) and after every block, probes read camera 2's pose in
camera 1's frame: nine numbers projected onto the nearest rotation (Levinson et al., An Analysis of
SVD for Deep Rotation Estimation, NeurIPS 2020), and the unit vector to camera 2. They read one
token, or the mean of all patches (`pooled`). One token is the `best` patch of the site, the patch
that view 2's own attention attends to most (`sink`, mean over blocks, heads and `SINK_ROOMS`
rooms), the patch in the `centre`, the one in the top left `corner`, and the `camera` token of a
model that has one.

There is a `linear` probe (ridge regression on standardised features, penalty 0.01 times the number
of rooms; the best patch is the one whose linear probe has the least median rotation error on
the rooms held out) and an `mlp` of two layers (`HIDDEN` units, Adam, `STEPS` steps, kept where its
loss on the rooms held out is least). They are always fitted to `FITTED` rooms of the training split
at the size of the pairs, with `HELD_OUT` more held out, because other data sets have no training
split here.

Controls: the mean pose of the rooms; the identity pose; the same probes shown another view 1
(`shuffled`, see `prob3r.measures.controls`); the same probes of a backbone with random weights
(`random`); and the decoder's input, which depends on view 2 alone. The positive control is the
camera token of `mini-vggt`, which sees the same pairs at its own size. The model's own output is
measured too: the cameras that it states, or else those that its pointmaps tell.

Rules, for rotation errors at the last site, medians over pairs with 95 % bootstrap intervals. Of a
linear probe and an MLP, the one with the lower median counts; of several tokens, the best:

- *The camera token of a model that carries an explicit pose shows it*: supported if its error is
  below that of any patch of this model and below the mean pose's, the intervals of both differences
  excluding zero; not supported if it is not below the mean pose's; else mixed. Left out without
  `mini-vggt`.
- *No single token carries the pose; pooled tokens do*: supported if the error of the best patch
  is above that of the pooled tokens by more than `MARGIN` degrees, the interval of the difference
  excluding zero, and the error of pooled tokens is below that of the mean pose, with such an
  interval too; not supported if either interval does not exclude zero; else mixed. It is never
  supported if that camera token does not show its pose, or if there is no such model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.scenes import pair_errors
from prob3r.measures.statistics import as_text, median_interval, wide
from prob3r.measures.tokens import Sinks, several_sizes
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.models.sites import Site
from prob3r.probes.settings import HELD_PAIRS, PAIRS
from prob3r.probes.targets import POSE, Goals
from prob3r.probes.tokens import POOLED, KeptTokens, Taken, TokenProbes
from prob3r.rooms import Rooms
from prob3r.runs.edits import Setting
from prob3r.runs.trace import trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs, Resized, batches
from prob3r.scenes.views import Pair
from prob3r.studies.framework.study import BETWEEN, Study
from prob3r.studies.framework.tested import MODEL, POSITIVE, ModelUnderTest, as_shown
from prob3r.studies.framework.verdict import Finding, decide
from prob3r.studies.pose_probes.figures import draw_errors_by_block, draw_tokens
from prob3r.studies.pose_probes.rows import (
    AVERAGE,
    CAMERA,
    IDENTITY,
    METRICS,
    OUTPUT,
    PATCHES,
    RANDOM,
    at_last_site,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FITTED, HELD_OUT = PAIRS, HELD_PAIRS  # rooms
SINK_ROOMS = 64
MARGIN = 2.0  # degrees by which a single token has to be worse


class PoseProbes(Study):
    """C3: the pose that probes can read off view 2's decoder, token by token and pooled."""

    name = "pose-probes"
    title = "What could carry a pose"
    prepared_on = 2 * (FITTED + HELD_OUT + SINK_ROOMS)
    controls = (POSITIVE,)
    place = 4
    output = True
    attention = BETWEEN
    most = 256

    def __init__(self) -> None:
        self.readers: dict[str, TokenProbes] = {}

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Fit the probes of the model and its controls to training rooms of the pairs' size."""
        first = next(batches(pairs, 1, 1), None)
        if first is None:
            raise Prob3rError("There are no pairs to probe; give at least one.")
        device = next(tested.model.parameters()).device
        rooms = Rooms("train", first.view2.size, device=device, compile=False)
        for name, model in _backbones(tested).items():  # one at a time, to save memory
            self.readers[name] = self._fitted(name, model, rooms, first)

    def _fitted(self, name: str, model: Model, rooms: Rooms[Pair], first: Pair) -> TokenProbes:
        """Return the probes of one model, fitted to rooms; `first` is one pair of their size."""
        shown: Pairs = Resized(rooms, model) if name == POSITIVE else rooms
        sinks = Sinks.find(model, shown, SINK_ROOMS, self.batch)
        seen, sites = as_shown(name, model, first), sites_of(model)
        count = len(Setting.of(model, seen).queries(Site.parse(sites[0])))
        singles = _singles(model, sinks, seen.view2.size, count)
        tokens = KeptTokens.of(count, trunk(model).layout(2).patches(count), singles.values())
        parts: list[list[Taken]] = [[] for _ in sites]
        goals = []
        for pair in batches(rooms, FITTED + HELD_OUT, 2 * self.batch):
            goals.append(POSE.truth(pair, 2, pair.view2.size[0]))
            seen = as_shown(name, model, pair)
            run = trace(model, seen, sites, output=False, dtype=torch.float16)
            for of_site, record in zip(parts, run.values(), strict=True):
                of_site.append(tokens.take(record))
        streams = (Taken.join(parts.pop(0)) for _ in sites)  # each is freed when it is fitted
        return TokenProbes.fit(POSE, streams, Goals.join(goals), FITTED, tokens, singles)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the errors of the poses that are read, and of those beside them."""
        parts = []
        for name, model in _backbones(tested).items():
            seen = as_shown(name, model, pair)
            parts.append(_measured(model, self.readers[name], seen, pair).assign(source=name))
            if name in (MODEL, POSITIVE):
                found = pair_errors(model(*seen.images), seen)
                own = {metric: found[metric] for metric in METRICS}
                parts.append(
                    _frame(own, probe=[OUTPUT], site=["head"], token=[""]).assign(source=name)
                )
        average = self.readers[MODEL].average.expand(len(pair), -1)
        mean_pose = _frame(_errors(average, pair), probe=[AVERAGE], site=[""], token=[""])
        identity = _frame(_identity_errors(pair), probe=[IDENTITY], site=[""], token=[""])
        parts += [mean_pose.assign(source=MODEL), identity.assign(source=MODEL)]
        control = shuffled(pair)
        rows = _measured(tested.model, self.readers[MODEL], control.pair, pair)
        parts.append(control.masked(rows).assign(source=SHUFFLED))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the questions of C3 that probes can answer."""
        positive = _camera(table) if (table.source == POSITIVE).any() else None
        return [_pooled(table, positive), *([] if positive is None else [positive])]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the errors over the blocks, and those of all tokens at the last site."""
        return {"blocks": draw_errors_by_block(table), "tokens": draw_tokens(table)}


def sites_of(model: Model) -> list[str]:
    """Return the trunk's input of view 2 and the ends of its blocks."""
    stack = trunk(model)
    return [str(site) for site in (Site(stack.name, 2, None, "embed"), *stack.ends(2))]


def _backbones(tested: ModelUnderTest) -> dict[str, Model]:
    """Return the models whose tokens are read."""
    found = {
        MODEL: tested.model,
        RANDOM: tested.untrained,
        POSITIVE: tested.positive,
    }
    return {name: model for name, model in found.items() if model is not None}


def _singles(model: Model, sinks: Sinks, size: tuple[int, int], tokens: int) -> dict[str, int]:
    """Return the single tokens of view 2 to be read, but for the best patch.

    Args:
        model: The model.
        sinks: Its sinks.
        size: Height and width of the views.
        tokens: How many tokens view 2 has.
    """
    layout, (rows, columns) = trunk(model).layout(2), patch_grid(*size, model.config.patch)
    patches = layout.patches(tokens)
    attended = sinks.of_view_2(model, size)
    singles = {
        "sink": int(attended[patches].argmax()),
        "centre": rows // 2 * columns + columns // 2,
        "corner": 0,
    }
    found = {name: patches.start + place for name, place in singles.items()}
    return found | ({CAMERA: layout.index(CAMERA, tokens)} if CAMERA in layout.special else {})


def _measured(model: Model, reader: TokenProbes, shown: Pair, true: Pair) -> pd.DataFrame:
    """Return the errors of a reader's poses for pairs as they are shown to the model."""
    sites = sites_of(model)
    run = trace(model, shown, sites, output=False)
    streams = [run[site] for site in sites]
    if reader.places.max() != streams[0].shape[1]:
        raise several_sizes()
    numbers = reader.read(streams)
    errors = _errors(torch.stack(list(numbers.values())), true)
    return _frame(errors, probe=list(numbers), site=sites, token=reader.tokens)


def _errors(numbers: Float[Tensor, "*d b 12"], pair: Pair) -> dict[str, Float[Tensor, "*d b"]]:
    """Return the errors of the poses that probes' numbers stand for, in degrees."""
    goals = POSE.truth(pair, 2, pair.view2.size[0])
    flat = numbers.flatten(0, -2)
    times = len(flat) // len(pair)
    (units,) = goals.units.values()
    errors = POSE.errors(flat, goals.raw.repeat(times, 1), units.repeat(times))
    shape = numbers.shape[:-1]
    return {m: v.unflatten(0, shape) for m, v in zip(METRICS, errors.values(), strict=True)}


def _identity_errors(pair: Pair) -> dict[str, Float[Tensor, " b"]]:
    """Return the errors of camera 2 put where camera 1 is, in degrees: its direction is none."""
    numbers = torch.cat((torch.eye(3).flatten(), torch.zeros(3))).to(pair.view2_to_view1)
    return _errors(numbers.expand(len(pair), -1), pair)


def _frame(errors: dict[str, Float[Tensor, "*d b"]], **axes: Sequence[str]) -> pd.DataFrame:
    """Return a row for every error of every pair, told apart by columns, one for each axis."""
    values = torch.stack(list(errors.values())).cpu()
    columns = {"metric": list(errors)} | axes | {"pair": range(values.shape[-1])}
    index = pd.MultiIndex.from_product(list(columns.values()), names=list(columns))
    return pd.DataFrame({"value": values.flatten().numpy()}, index=index).reset_index()


def _beside(table: pd.DataFrame, probe: str, source: str = MODEL) -> Float[Tensor, " n"]:
    """Return the rotation error of what stands beside the probes."""
    rows = table[(table.probe == probe) & (table.source == source) & (table.metric == METRICS[0])]
    return wide(rows, "probe")[1][:, 0]


def _identity(table: pd.DataFrame) -> str:
    """Return what the identity pose does, in words; tables of older runs do not hold it."""
    if not (table.probe == IDENTITY).any():
        return ""
    return f"; {IDENTITY} {_level(_beside(table, IDENTITY))}"


def _level(errors: Float[Tensor, " n"]) -> str:
    return as_text(median_interval(errors), sign="-")


def _camera(table: pd.DataFrame) -> Finding:
    camera, patch = (at_last_site(table, POSITIVE, tokens) for tokens in ((CAMERA,), PATCHES))
    average = _beside(table, AVERAGE)
    gap = median_interval(camera.errors - patch.errors)
    below = median_interval(camera.errors - average)
    refuted = below.high >= 0
    verdict = decide(gap.high < 0 and not refuted, refuted)
    pooled = at_last_site(table, POSITIVE, (POOLED,))
    return Finding(
        "C3",
        "The camera token of a model that carries an explicit pose shows it",
        verdict,
        *gap,
        unit="degrees of rotation error, camera token less best patch",
        control=f"camera token ({camera.what}) {_level(camera.errors)}; best patch "
        f"({patch.what}) {_level(patch.errors)}; pooled "
        f"{_level(pooled.errors)}; mean pose {_level(average)}{_identity(table)}; the "
        f"output of {POSITIVE} {_level(_beside(table, OUTPUT, POSITIVE))}",
        pairs=len(camera.errors),
    )


def _pooled(table: pd.DataFrame, positive: Finding | None) -> Finding:
    patch, pooled = (at_last_site(table, MODEL, tokens) for tokens in (PATCHES, (POOLED,)))
    average = _beside(table, AVERAGE)
    gap = median_interval(patch.errors - pooled.errors)
    below = median_interval(pooled.errors - average)
    refuted = gap.low <= 0 or below.high >= 0
    shown = positive is not None and positive.verdict == "supported"
    verdict = decide(gap.value > MARGIN and shown and not refuted, refuted)
    controls = {
        f"pooled, {source}": at_last_site(table, source, (POOLED,)).errors
        for source in (SHUFFLED, RANDOM)
        if (table.source == source).any()
    }
    controls[AVERAGE] = average
    if (table.probe == IDENTITY).any():
        controls[IDENTITY] = _beside(table, IDENTITY)
    controls["the model's output"] = _beside(table, OUTPUT)
    more = "; ".join(f"{name} {_level(v)}" for name, v in controls.items())
    if positive is None:
        more += f"; there is no {POSITIVE} to show that probes find a pose where there is one"
    elif positive.verdict != "supported":
        more += f"; probes do not find the pose of {POSITIVE} in its camera token"
    return Finding(
        "C3",
        "No single token carries the pose; pooled tokens do",
        verdict,
        *gap,
        unit="degrees of rotation error of probes at the last site, best patch less pooled",
        control=f"best patch ({patch.what}) {_level(patch.errors)}; pooled "
        f"({pooled.what}) {_level(pooled.errors)}; {more}",
        pairs=len(patch.errors),
    )
