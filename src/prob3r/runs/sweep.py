"""Sweeps: many variants of a run over many scenes, each measured against the run without edits."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import bootstrap_interval, finite, pose_and_shape
from prob3r.models.protocol import Model, Prediction, trunk
from prob3r.models.sites import HEADS, Site
from prob3r.runs.donated import Donated
from prob3r.runs.edits import Edit, Editor, HeadAblation, Means, Setting
from prob3r.runs.precision import running_precision
from prob3r.runs.replay import Replay, repeat
from prob3r.runs.trace import trace
from prob3r.scenes.views import Views

if TYPE_CHECKING:
    import pandas as pd

Variants = Mapping[Any, Sequence[Edit]]
"""The edits of each variant, by its name: a string, or a tuple of values that identify it."""

Metric = Callable[[Prediction, Any, Prediction], Mapping[str, Tensor]]
"""A function of an output, its views and the output without edits.

It returns values by name, one for each scene.
"""

MEMORY = 2**30  # bytes that the variants of one stack may take by default


def sweep(
    model: Model,
    scenes: Views | Iterable[Views],
    variants: Variants | Callable[[Any], Variants],
    metrics: Metric | None = None,
    *,
    memory: int = MEMORY,
    report: Callable[[int], None] = lambda done: None,
) -> "pd.DataFrame":
    """Run every variant over every scene and measure what it changes.

    Sublayers that a variant does not change are reused from the run without edits. Variants that
    change the same sublayers run as one batch. Outputs are measured at once and are not kept.

    Args:
        model: The model. It is not changed.
        scenes: A batch of scenes, or several batches.
        variants: The variants, or a function that returns the variants for a batch of scenes.
        metrics: A function that returns the metrics. The default is `errors_of`.
        memory: The approximate memory in bytes that the variants of one stack may take.
        report: A function that is called with the number of runs done: one for each variant and
            scene.

    Returns:
        A row for each variant, scene and metric: the `value`, the value without edits (`clean`),
        and their difference, the `effect`. `attrs` names the `precision` that the model ran in.

    Raises:
        Prob3rError: There is no variant or no scene. Or an edit does not fit or changes nothing;
            this is checked before anything runs over the batch.
    """
    import pandas as pd  # takes long, and `import prob3r` should not

    measure, tables, first, done = metrics or errors_of, [], 0, 0
    for views in [scenes] if isinstance(scenes, Views) else scenes:
        chosen = variants(views) if callable(variants) else variants
        setting = Setting.of(model, views)
        editors = {name: Editor(edits, setting) for name, edits in chosen.items()}
        replay = Replay(model, views)
        groups: dict[frozenset[str], list[Hashable]] = defaultdict(list)
        for name, editor in editors.items():
            groups[replay.changed(editor.changes)].append(name)
        size = max(1, memory // replay.bytes_per_variant)
        output = replay.clean.output
        assert output is not None  # a replay always has it
        clean = measure(output, views, output)
        named = views.names or range(first, first + len(views))
        first += len(views)
        for names in groups.values():
            for start in range(0, len(names), size):
                part = names[start : start + size]
                stack = {name: chosen[name] for name in part}
                tables.append(_measured(replay, output, clean, stack, named, measure))
                done += len(part) * len(views)
                report(done)
    if not tables:
        raise Prob3rError("There is nothing to sweep; give at least one variant and one scene.")
    table = pd.concat(tables, ignore_index=True)
    table.attrs["precision"] = running_precision(model)
    return table


class AblatedHead(NamedTuple):
    """One head of an attention sublayer, and how it is switched off."""

    site: str
    head: int
    mode: str


def sweep_heads(
    model: Model,
    scenes: Views | Iterable[Views],
    sites: str | None = None,
    modes: Sequence[str] = ("zero",),
    means: Means | None = None,
    **others: Any,
) -> "pd.DataFrame":
    """Switch off every head of some attention sublayers, one at a time; see `sweep`.

    Args:
        model: The model. It is not changed.
        scenes: A batch of scenes, or several batches.
        sites: A pattern of attention sublayers. The default is view 2's attention to other views.
        modes: Modes of `HeadAblation`. `resample` takes each scene's outputs from another scene of
            its batch.
        means: The means for the mode `mean`, from `head_means`.
        others: The arguments `metrics`, `memory` and `report` of `sweep`.

    Returns:
        The table of `sweep`, with the columns `site`, `block`, `head` and `mode` in place of
        `variant`.

    Raises:
        Prob3rError: The pattern matches nothing, a mode is unknown, the means for `mean` are
            missing, or a batch has no other scene for `resample`.
    """

    def variants(views: Views) -> Variants:
        setting = Setting.of(model, views)
        places = trunk(model).between(2) if sites is None else setting.attention_sites(sites)
        chosen = [place.probs for place in places]
        sources: dict[str, Any] = {"mean": means}
        if "resample" in modes:
            wanted = [str(site.read(HEADS)) for site in chosen]
            given = Donated.of(views, trace(model, views, wanted, output=False))
            if len(given.rows) < len(views):
                raise Prob3rError(
                    "resample takes the outputs of heads from another scene of the batch, but a "
                    "batch holds only one scene, or its scenes are not known; give batches of at "
                    "least two scenes."
                )
            sources["resample"] = given.records
        heads = [
            AblatedHead(str(site.residual), head, mode)
            for mode in modes
            for site in chosen
            for head in range(setting.heads(site))
        ]
        return {
            h: [HeadAblation(h.site, mode=h.mode, heads=[h.head], source=sources.get(h.mode))]
            for h in heads
        }

    table = spread(sweep(model, scenes, variants, **others))
    table.insert(1, "block", [Site.parse(site).block for site in table.site])
    return table


def spread(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a sweep's table with a column for each part of its variants' names.

    Args:
        table: A table from `sweep` in which the variants' names are named tuples of one type.
    """
    import pandas as pd

    names = table.variant.tolist()
    parts = pd.DataFrame(names, table.index, columns=names[0]._fields)
    joined = pd.concat([parts, table.drop(columns="variant")], axis=1)
    joined.attrs = table.attrs
    return joined


def summarise(table: "pd.DataFrame", seed: int = 0) -> "pd.DataFrame":
    """Return the median effect over pairs of every variant and metric, with its interval.

    Args:
        table: A table from `sweep` or `sweep_heads`.
        seed: The seed of the bootstrap.

    Returns:
        A row for each variant and metric: the median `effect`, the ends `low` and `high` of its
        95 % bootstrap interval over pairs, the median `value` and `clean`, and the number of
        `pairs` for which there is an effect. `attrs` are those of the table.
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(seed)
    keys = [name for name in table if name not in ("pair", "value", "clean", "effect")]
    rows = []
    for key, group in table.groupby(keys, sort=False):
        effects = torch.tensor(group.effect.to_numpy())
        effect, low, high = bootstrap_interval(effects, generator=generator)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "effect": effect,
                "low": low,
                "high": high,
                "value": group.value.median(),
                "clean": group.clean.median(),
                "pairs": int(group.effect.count()),
            }
        )
    summary = pd.DataFrame(rows)
    summary.attrs = table.attrs
    return summary


def errors_of(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
    """Return every error of `PoseAndShape` of view 2, and of all further views.

    The errors are against the truth. If there is no truth, they are against the output without
    edits: the rotation error is then how far the edit turned the pointmap of the view, and there
    is no translation error. The errors of further views have names such as
    `rotation_error of view 3`.
    """
    errors = _pair_errors(output, views, clean, 2)
    for number in range(3, views.count + 1):
        found = _pair_errors(output, views, clean, number)
        errors |= {f"{name} of view {number}": values for name, values in found.items()}
    return errors


def _pair_errors(
    output: Prediction, views: Views, clean: Prediction, number: int
) -> dict[str, Tensor]:
    """Return the errors of the pair of view 1 and another view."""
    pair, points = views.pair(1, number), (output.points[0], output.points[number - 1])
    if pair.has_truth:
        return pair.errors_of(points)._asdict()
    clean1, clean2 = clean.points[0], clean.points[number - 1]
    valid1, valid2 = (finite(c) for c in (clean1, clean2))
    still = torch.eye(4).to(clean2).expand(len(pair), 4, 4)
    errors = pose_and_shape(*points, clean1, clean2, valid1, valid2, still)._asdict()
    del errors["translation_error"]
    return errors


def _measured(
    replay: Replay,
    output: Prediction,
    clean: Mapping[str, Tensor],
    variants: Variants,
    names: Sequence[Hashable],
    measure: Metric,
) -> "pd.DataFrame":
    """Return the rows of variants that run as one batch."""
    import pandas as pd

    views, count = replay.views, len(variants)
    edited = measure(
        replay.stack(list(variants.values())),
        views[[*range(len(views))] * count],
        output.map(partial(repeat, copies=count)),
    )
    keys = [(name, row) for name in variants for row in names]
    tables = []
    for metric, values in edited.items():
        table = pd.DataFrame({"metric": metric, "value": values.cpu().numpy()}, range(len(keys)))
        table["clean"] = repeat(clean[metric], count).cpu().numpy()
        table.insert(0, "variant", [name for name, _ in keys])
        table.insert(1, "pair", [row for _, row in keys])
        tables.append(table)
    joined = pd.concat(tables)
    joined["effect"] = joined.value - joined.clean
    return joined
