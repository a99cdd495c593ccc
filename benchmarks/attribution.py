"""Attribution held to the truth: exact ablation and exact patching of every head and sublayer.

- ranks: the rank correlation (Spearman, signed) of first-order effects with exact ones, over all
  heads and over all sublayers, scene by scene. The median over scenes and its 95 % bootstrap
  interval. Parts without any exact effect are left out. Exact effects are those of a sweep, with
  the part switched off (zero), at its mean over rooms:train (mean), or as in another scene
  (resample).
- sign: the share of the parts among the ten strongest whose sign is right, in the mean.
- where: the same over the parts of each kind of sublayer.
- steps: the same by integrated gradients, on fewer scenes.
- cost: operations of one attribution beside those of a sweep over all heads, and its memory, for
  DUSt3R-Large at 224, without running it; and processor time of both for the model that was run.

Run `python benchmarks/attribution.py [--pairs 32] [--model mini] [--steps 8 --steps-pairs 8]`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from prob3r.cost.jobs import attributing, sweeping
from prob3r.geometry import bootstrap_interval, median
from prob3r.measures.scalars import Rotation, Scalar, Translation, TruthDistance
from prob3r.models import DUSt3RConfig, Model, Prediction, load
from prob3r.models.protocol import stack_of
from prob3r.models.sites import HEADS, Site
from prob3r.rooms import Rooms
from prob3r.runs.attribution import AnotherRun, Attribution, DataMean, Part, Zero, attribute
from prob3r.runs.edits import Edit, HeadAblation, Means, Skip, Transplant, head_means
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.source import batches

LARGE = DUSt3RConfig((224, 224))
SCALARS: tuple[Scalar, ...] = (Rotation(), Translation(), TruthDistance())
MODES = ("zero", "mean", "resample")
BARS = {"sublayer": 0.9, "head": 0.8}
BATCH = 8
STRONGEST = 10

Variants = dict[tuple[str, str, int], list[Edit]]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--first", type=int, default=0, help="the first room")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--steps-pairs", type=int, default=8)
    parser.add_argument("--means-pairs", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = load(options.model)
    size = model.config.image_size
    means = head_means(model, batches(Rooms("train", size), options.means_pairs, 32))
    took: dict[str, float] = {}
    rooms = Rooms("validation", size)
    rows: list[dict[str, Any]] = []
    for first in range(options.first, options.first + options.pairs, BATCH):
        last = min(first + BATCH, options.first + options.pairs)
        steps = options.steps if first - options.first < options.steps_pairs else 1
        for part in compare(model, rooms.batch(range(first, last)), means, steps, took):
            rows += part
            if options.json:  # as it comes, since it takes long
                options.json.write_text(json.dumps({"took": took, "rows": rows}))
    table = pd.DataFrame(rows)
    console = Console(width=150)
    console.print(ranks(table[table.steps == 1], f"{options.model}, {options.pairs} rooms"))
    console.print(where(table[table.steps == 1]))
    if options.steps > 1:
        few = table[table.scene.isin(table[table.steps > 1].scene)]
        for steps, part in few.groupby("steps"):
            title = f"{options.model}, {part.scene.nunique()} rooms, {steps} steps"
            console.print(ranks(part, title))
    console.print(cost(took))


def compare(
    model: Model, views: Views, means: Means, steps: int, took: dict[str, float]
) -> Iterator[list[dict[str, Any]]]:
    """Yield, mode by mode, a row for each scene, scalar, part and number of steps."""
    other = views[other_scenes(views).tolist()]
    baselines = {"zero": Zero(), "resample": AnotherRun(other), "mean": DataMean(means)}
    for mode, baseline in baselines.items():
        rows = []
        start = time.process_time()
        exact = swept(model, views, variants(model, views, other, mode, means))
        took["sweep"] = took.get("sweep", 0) + time.process_time() - start
        for scalar in SCALARS:
            for count in sorted({1, steps}):
                start = time.process_time()
                found = attribute(model, views, scalar, baseline, steps=count, bound_memory=False)
                name = f"attribution, {count} steps"
                took[name] = took.get(name, 0) + time.process_time() - start
                rows += [
                    {
                        "scene": f"{views.names[scene]}",
                        "mode": mode,
                        "scalar": scalar.name,
                        "steps": count,
                        "kind": kind,
                        "site": site,
                        "head": head,
                        "effect": effect,
                        "exact": exact[kind, site, head][scalar.name][scene],
                    }
                    for scene in range(len(views))
                    for (kind, site, head), effect in effects(found, scene).items()
                ]
        yield rows


def effects(found: Attribution, scene: int) -> dict[tuple[str, str, int], float]:
    """Return first-order effects by part; a sublayer has head -1."""
    parts = found.parts(scene)
    return {_key(part): part.effect for part in parts}


def _key(part: Part) -> tuple[str, str, int]:
    return ("sublayer", part.site, -1) if part.head is None else ("head", part.site, part.head)


def variants(model: Model, views: Views, other: Views, mode: str, means: Means) -> Variants:
    """Return the exact edit of every head and every sublayer."""
    places = [Site.parse(site) for site in model.sites(views.count)]
    attention = [Site.parse(site) for site in model.attention_sites(views.count)]
    own, others = (trace(model, v, "*", output=False) for v in (views, other))
    heads = trace(model, other, [str(site.read(HEADS)) for site in attention], output=False)
    sources: Mapping[str, Any] = {"zero": None, "mean": means, "resample": heads}
    found: Variants = {
        ("head", str(site.residual), head): [
            HeadAblation(str(site.residual), mode=mode, heads=[head], source=sources[mode])
        ]
        for site in attention
        for head in range(stack_of(model, site).heads)
    }
    before: dict[str, str] = {}
    for place in places:
        site, last = str(place), before.get(place.stream)
        before[place.stream] = site
        if last is None or not place.adds:
            continue
        if mode == "zero":
            found["sublayer", site, -1] = [Skip(site)]
            continue
        added = means.added[site] if mode == "mean" else Tensor(others[site]) - Tensor(others[last])
        stream = Tensor(own[last]) + added
        found["sublayer", site, -1] = [Transplant(site, {site: stream})]
    return found


def swept(
    model: Model, views: Views, edits: Variants
) -> dict[tuple[str, str, int], dict[str, list[float]]]:
    """Return exact effects by part, scalar and scene."""
    measures: dict[str, Callable[[Prediction], Tensor]] = {}

    def measure(output: Prediction, batch: Views, clean: Prediction) -> dict[str, Tensor]:
        if not measures:  # the first call is that of the run without edits
            measures.update({scalar.name: scalar(views, clean) for scalar in SCALARS})
        with torch.no_grad():
            return {name: of(output) for name, of in measures.items()}

    table = sweep(model, views, edits, measure)
    found: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for (variant, metric), group in table.groupby(["variant", "metric"], sort=False):
        found.setdefault(variant, {})[metric] = group.effect.tolist()
    return found


def correlation(part: pd.DataFrame) -> float:
    """Return the rank correlation of effects of one scene, without those that are exactly zero."""
    part = part[part.exact != 0]
    return float(part.effect.rank().corr(part.exact.rank()))


def signs(part: pd.DataFrame) -> float:
    """Return the share of the parts with the strongest exact effects whose sign is right."""
    top = part.loc[part.exact.abs().nlargest(STRONGEST).index]
    return float(((top.effect > 0) == (top.exact > 0)).mean())


def over_scenes(part: pd.DataFrame, of: Callable[[pd.DataFrame], float]) -> Tensor:
    """Return a number of every scene."""
    return torch.tensor([of(rows) for _, rows in part.groupby("scene")])


def interval(values: Tensor) -> str:
    """Return the median over scenes and its interval."""
    found = bootstrap_interval(values, median, generator=torch.Generator().manual_seed(0))
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def ranks(rows: pd.DataFrame, title: str) -> Table:
    """Return the correlations of all sublayers and of all heads."""
    table = Table("scalar", "baseline", "parts", "ranks", "bar", "ten strongest: sign", title=title)
    for (scalar, mode, kind), part in rows.groupby(["scalar", "mode", "kind"], sort=False):
        found = over_scenes(part, correlation)
        right = float(over_scenes(part, signs).mean())
        table.add_row(scalar, mode, f"{kind}s", interval(found), f"{BARS[kind]:g}", f"{right:.0%}")
    return table


def where(rows: pd.DataFrame) -> Table:
    """Return the correlations of the parts of each stack and kind of sublayer."""
    table = Table("scalar", "baseline", "parts", "of", "ranks", "share of their effects")
    places = rows.site.map(Site.parse)
    rows = rows.assign(of=[f"{p.stack} {p.sublayer}" for p in places])
    for (scalar, mode, kind), part in rows.groupby(["scalar", "mode", "kind"], sort=False):
        total = part.exact.abs().sum()
        for of, group in part.groupby("of", sort=False):
            share = group.exact.abs().sum() / total
            found = interval(over_scenes(group, correlation))
            table.add_row(scalar, mode, f"{kind}s", of, found, f"{share:.0%}")
    return table


def cost(took: Mapping[str, float]) -> Table:
    """Return operations and memory for DUSt3R-Large, and the processor time of what ran."""
    table = Table("what", "attribution", "beside it", "ratio", "bar")
    swept = sweeping(LARGE, sites="*")
    for words, another in (("zero", False), ("another run", True)):
        one = attributing(LARGE, another_run=another)
        table.add_row(
            f"DUSt3R-Large at 224, {words}: operations",
            f"{one.operations:.3g}",
            f"sweep of {swept.count} heads {swept.forward:.3g}",
            f"1 / {swept.forward / one.operations:.0f}",
            "1 / 100",
        )
    little, much = (attributing(LARGE, bound_memory=bound) for bound in (True, False))
    table.add_row(
        "DUSt3R-Large at 224: memory beside the weights",
        f"{(little.total - little.weights) / 2**20:.0f} MiB",
        f"without checkpoints {(much.total - much.weights) / 2**20:.0f} MiB",
        f"{(little.total - little.weights) / (much.total - much.weights):.2f}",
        "",
    )
    scalars = len(SCALARS)
    for name, seconds in took.items():
        if name != "sweep":
            table.add_row(
                f"what ran, {name}: processor time of one scalar",
                f"{seconds / scalars:.1f} s",
                f"sweep over heads and sublayers {took['sweep']:.1f} s",
                f"1 / {took['sweep'] * scalars / seconds:.0f}",
                "",
            )
    return table


if __name__ == "__main__":
    main()
