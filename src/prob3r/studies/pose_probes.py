"""C3, pose probes: what in view 2's decoder could carry the relative pose at all?

At the decoder's input and after every block, probes read camera 2's pose in camera 1's frame: nine
numbers projected onto the nearest rotation (Levinson et al., An Analysis of SVD for Deep Rotation
Estimation, NeurIPS 2020), and the unit vector to camera 2. They read one token, or the mean of all
patches (`pooled`). One token is the `best` patch of the site, the patch that the decoder's
self-attention looks at most (`sink`, mean over blocks, heads and `SINK_ROOMS` rooms), the patch in
the `centre`, the one in the top left `corner`, and the `camera` token of a model that has one.

There is a `linear` probe (ridge regression on standardised features, penalty `PENALTY` times the
number of rooms; the best patch is the one whose linear probe has the least median rotation error on
the rooms held out) and an `mlp` of two layers (`HIDDEN` units, Adam, `STEPS` steps, kept where its
loss on the rooms held out is least). They are fitted to `FITTED` rooms of the training split of the
pairs' size, with `HELD_OUT` more held out, whatever the pairs are: of other data sets than rooms
there is nothing to fit to.

Controls: the mean pose of the rooms; the identity pose; the same probes shown another view 1
(`shuffled`, see `prob3r.measures.controls`); the same probes of a backbone with random weights
(`random`); and the decoder's input, which is what view 2 alone tells. The positive control is the
camera token of `mini-pose`. The model's own output is measured beside them.

Rules, for rotation errors at the last site, medians over pairs with 95 % bootstrap intervals; of a
linear probe and an MLP the one with the lower median counts, of several tokens the best:

- *The camera token of a twin that carries an explicit pose shows it*: supported if its error is
  below that of any patch of the twin and below the mean pose's, the intervals of both differences
  excluding zero; not supported if it is not below the mean pose's; else mixed. Left out without
  `mini-pose`.
- *No single token carries the pose; pooled tokens do*: supported if the error of the best patch
  is above that of the pooled tokens by more than `MARGIN` degrees, the interval of the difference
  excluding zero, and pooled tokens are below the mean pose, so, too; not supported if either
  interval does not exclude zero; else mixed. Mixed at most where the camera token of the twin does
  not show its pose, or there is no such twin.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import median, patch_grid, rotation_error, translation_error
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.statistics import as_text, median_interval, medians, wide
from prob3r.measures.tokens import Sinks, several_sizes
from prob3r.models import Model
from prob3r.models.protocol import trunk
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs, batches
from prob3r.scenes.views import Pair
from prob3r.studies.contrasts import MODEL, POSITIVE
from prob3r.studies.figures import COLOURS, LABELS, PAGE, band, figure
from prob3r.studies.pose_readers import (
    BEST,
    FITTED,
    HELD_OUT,
    LINEAR,
    MLP,
    POOLED,
    Pose,
    PoseReader,
    pose_numbers,
)
from prob3r.studies.study import Study, Subject
from prob3r.studies.verdict import Finding, decide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINK_ROOMS = 64
MARGIN = 2.0  # degrees by which a single token has to be worse

RANDOM = "random"
CAMERA = "camera"
AVERAGE, IDENTITY, OUTPUT = "mean pose", "identity pose", "output"
"""What stands beside the probes: what they say without features, and the model's own pose."""

PATCHES = (BEST, "sink", "centre", "corner")
METRICS = ("rotation_error", "translation_error")


class PoseProbes(Study):
    """C3: the pose that probes can read off view 2's decoder, token by token and pooled."""

    name = "pose-probes"
    title = "What could carry a pose"
    place = 4
    most = 256

    def __init__(self) -> None:
        self.readers: dict[str, PoseReader] = {}

    def prepare(self, subject: Subject, pairs: Pairs) -> None:
        """Fit the probes of the model and its controls to training rooms of the pairs' size."""
        first = next(batches(pairs, 1, 1), None)
        if first is None:
            raise Prob3rError("There are no pairs to probe; give at least one.")
        device = next(subject.model.parameters()).device
        rooms = Rooms("train", first.view2.size, device=device, compile=False)
        backbones = _backbones(subject)
        streams: dict[str, list[list[Tensor]]] = {name: [] for name in backbones}
        numbers = []
        for pair in batches(rooms, FITTED + HELD_OUT, 2 * self.batch):
            numbers.append(pose_numbers(pair))
            for name, model in backbones.items():
                run = trace(model, pair, sites_of(model), output=False, dtype=torch.float16)
                streams[name].append([torch.Tensor(record) for record in run.values()])
        for name, model in backbones.items():
            sites = [torch.cat(parts) for parts in zip(*streams.pop(name), strict=True)]
            grid = patch_grid(*rooms.size, model.config.patch)
            singles = _singles(model, rooms, grid, self.batch)
            self.readers[name] = PoseReader.fit(
                sites, torch.cat(numbers), grid[0] * grid[1], singles
            )

    def measure(self, subject: Subject, pair: Pair) -> pd.DataFrame:
        """Return the errors of the poses that are read, and of those beside them."""
        parts = []
        for name, model in _backbones(subject).items():
            parts.append(_measured(model, self.readers[name], pair, pair).assign(source=name))
            if name in (MODEL, POSITIVE):
                found = pair.errors_of(model(pair.view1.image, pair.view2.image).points)._asdict()
                own = {metric: found[metric] for metric in METRICS}
                parts.append(
                    _frame(own, probe=[OUTPUT], site=["head"], token=[""]).assign(source=name)
                )
        average = self.readers[MODEL].average.expand(len(pair), -1)
        mean_pose = _frame(_errors(average, pair), probe=[AVERAGE], site=[""], token=[""])
        identity = _frame(_identity_errors(pair), probe=[IDENTITY], site=[""], token=[""])
        parts += [mean_pose.assign(source=MODEL), identity.assign(source=MODEL)]
        control = shuffled(pair)
        rows = _measured(subject.model, self.readers[MODEL], control.pair, pair)
        parts.append(control.masked(rows).assign(source=SHUFFLED))
        return pd.concat(parts, ignore_index=True)

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers to the questions of C3 that probes can answer."""
        twin = _camera(table) if (table.source == POSITIVE).any() else None
        return [_pooled(table, twin), *([] if twin is None else [twin])]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return the errors over the blocks, and those of all tokens at the last site."""
        return {"blocks": _draw_blocks(table), "tokens": _draw_tokens(table)}


def sites_of(model: Model) -> list[str]:
    """Return view 2's decoder input and the ends of its blocks."""
    return ["dec2.embed", *(f"dec2.{block}.mlp" for block in range(trunk(model).blocks))]


def _backbones(subject: Subject) -> dict[str, Model]:
    """Return the models whose tokens are read."""
    found = {
        MODEL: subject.model,
        RANDOM: subject.untrained,
        POSITIVE: subject.relatives.get(POSITIVE),
    }
    return {name: model for name, model in found.items() if model is not None}


def _singles(model: Model, rooms: Rooms, grid: tuple[int, int], batch: int) -> dict[str, int]:
    """Return the single tokens to be read, but for the best patch."""
    rows, columns = grid
    received = Sinks.find(model, rooms, SINK_ROOMS, batch).received
    looked_at = torch.stack([r.mean(0) for s, r in received.items() if s.endswith("self_attn")])
    singles = {
        "sink": int(looked_at.mean(0)[: rows * columns].argmax()),
        "centre": rows // 2 * columns + columns // 2,
        "corner": 0,
    }
    return singles | ({CAMERA: rows * columns} if trunk(model).layout(2).special else {})


def _measured(model: Model, reader: PoseReader, shown: Pair, true: Pair) -> pd.DataFrame:
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
    found, pose = Pose.of(numbers.flatten(0, -2)), pair.view2_to_view1
    depth = torch.cat([view.points[..., 2].flatten(1) for view in (pair.view1, pair.view2)], 1)
    known = torch.cat([mask.flatten(1) for mask in pair.valid], 1)
    mean_depth = (depth * known).sum(1) / known.sum(1)
    times = len(found.rotation) // len(pair)
    true, mean_depth = pose.repeat(times, 1, 1), mean_depth.repeat(times)
    errors = {
        "rotation_error": rotation_error(found.rotation, true[:, :3, :3]),
        "translation_error": translation_error(found.direction, true[:, :3, 3], mean_depth),
    }
    return {metric: values.unflatten(0, numbers.shape[:-1]) for metric, values in errors.items()}


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


class Read(NamedTuple):
    """The better probe of the better of some tokens.

    Attributes:
        what: The probe and the token.
        errors: Its rotation error at the last site, of each pair.
    """

    what: str
    errors: Float[Tensor, " n"]


def at_last_site(table: pd.DataFrame, source: str, tokens: tuple[str, ...]) -> Read:
    """Return what is read best at the last site, by the median rotation error."""
    sites = list(dict.fromkeys(table[table.token != ""].site))
    rows = table[(table.source == source) & (table.site == sites[-1])]
    rows = rows[(rows.metric == METRICS[0]) & rows.token.isin(tokens)]
    names, values = wide(rows.assign(what=rows.token + ", " + rows.probe), "what")
    least = int(median(values.T).argmin())
    return Read(names[least], values[:, least])


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
        "The camera token of a twin that carries an explicit pose shows it",
        verdict,
        *gap,
        unit="degrees of rotation error, camera token less best patch",
        control=f"camera token ({camera.what}) {_level(camera.errors)}; best patch "
        f"({patch.what}) {_level(patch.errors)}; pooled "
        f"{_level(pooled.errors)}; mean pose {_level(average)}{_identity(table)}; the "
        f"twin's output {_level(_beside(table, OUTPUT, POSITIVE))}",
        pairs=len(camera.errors),
    )


def _pooled(table: pd.DataFrame, twin: Finding | None) -> Finding:
    patch, pooled = (at_last_site(table, MODEL, tokens) for tokens in (PATCHES, (POOLED,)))
    average = _beside(table, AVERAGE)
    gap = median_interval(patch.errors - pooled.errors)
    below = median_interval(pooled.errors - average)
    refuted = gap.low <= 0 or below.high >= 0
    shown = twin is not None and twin.verdict == "supported"
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
    if twin is None:
        more += f"; there is no {POSITIVE} to show that probes find a pose where there is one"
    elif twin.verdict != "supported":
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


_SHOWN = {POOLED: COLOURS["easy"], BEST: COLOURS["hard"], CAMERA: COLOURS["cross_attn"]}
_PROBE_NAMES = {LINEAR: "linear", MLP: "MLP"}
_MARKERS = {LINEAR: "s", MLP: "o"}
_TOKEN_NAMES = {POOLED: "mean of patches", BEST: "best patch", CAMERA: "camera token"}


def _draw_blocks(table: pd.DataFrame) -> "Figure":
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
            axis.set_xticks(range(len(sites)), ["in", *(site.split(".")[1] for site in sites[1:])])
            axis.set_ylim(bottom=0)
            axis.set_ylabel(LABELS[metric])
        for axis, source in zip(axes, sources, strict=False):
            axis.set_title(source)
        for axis in axes[-len(sources) :]:
            axis.set_xlabel("end of decoder block")
        handles, labels = axes[len(sources) - 1].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4)
    return drawn


def _draw_tokens(table: pd.DataFrame) -> "Figure":
    """Return the rotation error of every token at the last site, with those of the controls."""
    sources = [source for source in (MODEL, POSITIVE) if (table.source == source).any()]
    rows = table[table.metric == METRICS[0]]
    last = list(dict.fromkeys(rows[rows.token != ""].site))[-1]
    with figure(1, len(sources), PAGE, 2.6) as (drawn, axes):
        for axis, source in zip(axes, sources, strict=True):
            read = {(source, token): token for token in (*PATCHES, CAMERA, POOLED)}
            if source == MODEL:
                read |= {(other, POOLED): f"pooled, {other}" for other in (SHUFFLED, RANDOM)}
            at = rows[rows.site == last].set_index(["source", "token"]).sort_index()
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
