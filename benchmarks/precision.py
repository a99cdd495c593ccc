"""Bfloat16 on a processor: DUSt3R-Large at 224 beside float32 and beside the official code.

- forward: in bfloat16, beside the official code in float32 with the same weights.
- sweep: every cross-attention head of view 2's decoder switched off in bfloat16, beside the
  official code run once for each head, which is timed on one run.
- ranks: the rank correlation of the heads' effects with those in float32, the least of all metrics.
- pose: by how much bfloat16 turns view 2's pointmap at most, with and without an edit.

Without `--official PATH`, a checkout of github.com/naver/dust3r with its croco submodule, our own
float32 stands in its place. Numbers are those of random weights, unless `--weights PATH` gives
others, and of `mini` on rooms. Times are wall clock and processor time: on a machine that does
other work, only ratios of processor time mean something.

Run `python benchmarks/precision.py [--official PATH] [--weights PATH] [--threads 2]`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from prob3r.geometry import align, rotation_angle
from prob3r.models import Model, Prediction, load, random
from prob3r.rooms import Rooms
from prob3r.runs.precision import Precision, has_bfloat16, running_in
from prob3r.runs.sweep import errors_of, sweep
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from sweep import LARGE, heads, images, official

ROOMS = 4


class Took(NamedTuple):
    """Seconds of some work, by the clock and of the processor."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s, processor {self.processor:.2f} s"

    def times(self, count: float) -> "Took":
        """Return the seconds of doing it so often."""
        return Took(count * self.wall, count * self.processor)

    def over(self, other: "Took") -> str:
        """Return how many times faster this is than another."""
        return (
            f"{other.wall / self.wall:.2f} times faster, "
            f"processor {other.processor / self.processor:.2f} times"
        )


class Swept(NamedTuple):
    """A sweep: its table, view 2's points of every run, the clean one first, and its seconds."""

    table: pd.DataFrame
    points: torch.Tensor
    took: Took


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, help="a checkout of the official DUSt3R")
    parser.add_argument("--weights", type=Path, help="official weights, instead of random ones")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hardware = "computes" if has_bfloat16(torch.device("cpu")) else "does not compute"
    table = Table(
        "what",
        "bfloat16",
        "beside it",
        "ratio",
        "bar",
        title=f"{options.threads} threads; this processor {hardware} in bfloat16",
    )
    large = load(options.weights) if options.weights else random(LARGE).eval()
    pair = images(LARGE)
    beside = "ours in float32" if options.official is None else "official in float32"
    run = runner(large, pair, options.official)
    plain = least(run)
    with running_in("bfloat16", large):
        half = least(lambda: trace(large, pair))
    table.add_row(
        "DUSt3R-Large at 224: forward", str(half), f"{beside} {plain}", half.over(plain), "2 times"
    )
    variants = heads(LARGE)
    took = compare(table, "DUSt3R-Large at 224", large, pair, variants)
    each = plain.times(len(variants))
    name = f"DUSt3R-Large at 224: sweep of {len(variants)} heads"
    table.add_row(name, str(took), f"{beside}, each {each}", took.over(each), "15 times")
    mini = load("mini")
    rooms = Rooms("test", mini.config.image_size, compile=False).batch(range(ROOMS))
    compare(table, f"mini, {ROOMS} rooms", mini, rooms, heads(mini.config))  # type: ignore[arg-type]
    Console(width=160).print(table)


def runner(model: Model, pair: Pair, checkout: Path | None) -> Callable[[], object]:
    """Return what runs the official code with the model's weights, or else the model."""
    if checkout is None:
        return lambda: trace(model, pair)
    theirs = official(checkout)
    theirs.load_state_dict(model.state_dict(), strict=False)  # type: ignore[attr-defined]
    views = [{"img": view.image, "true_shape": torch.tensor([LARGE.image_size]), "instance": "0"}
             for view in pair.views]  # fmt: skip

    def run() -> object:
        with torch.no_grad():
            return theirs(*views)

    return run


def compare(table: Table, name: str, model: Model, pair: Pair, variants: dict[Any, Any]) -> Took:
    """Sweep in both precisions; add what it does to the numbers, and return the seconds it took."""
    runs = {name: swept(name, model, pair, variants) for name in get_args(Precision)}
    plain, half = runs["float32"], runs["bfloat16"]
    turned = rotation_angle(align(half.points, plain.points).rotation).max()
    ranks = {
        metric: correlation(*(r.table[r.table.metric == metric].effect for r in runs.values()))
        for metric in plain.table.metric.unique()
    }
    worst = min(ranks, key=ranks.__getitem__)
    table.add_row(
        f"{name}: ranks of {len(variants)} heads' effects",
        f"{ranks[worst]:.4f} ({worst})",
        "float32",
        ", ".join(f"{metric} {value:.4f}" for metric, value in ranks.items()),
        "0.99",
    )
    table.add_row(f"{name}: view 2 turned at most", f"{float(turned):.3f}°", "float32", "", "")
    ours, took = plain.took, half.took
    table.add_row(f"{name}: sweep", str(took), f"ours in float32 {ours}", took.over(ours), "")
    return took


def swept(precision: Precision, model: Model, pair: Pair, variants: dict[Any, Any]) -> Swept:
    """Sweep in a precision."""
    points, tables = list[torch.Tensor](), list[pd.DataFrame]()

    def metrics(output: Prediction, views: Pair, clean: Prediction) -> dict[str, torch.Tensor]:
        points.append(output.points[1].flatten(1, 2))
        return errors_of(output, views, clean)

    with running_in(precision, model):
        took = once(lambda: tables.append(sweep(model, pair, variants, metrics)))
    return Swept(tables[0], torch.cat(points).double(), took)


def correlation(one: pd.Series, other: pd.Series) -> float:
    """Return Spearman's rank correlation."""
    ranks = torch.tensor([one.rank().tolist(), other.rank().tolist()], dtype=torch.double)
    return float(torch.corrcoef(ranks)[0, 1])


def once(work: Callable[[], object]) -> Took:
    """Return the seconds that some work takes."""
    start, processor = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - start, time.process_time() - processor)


def least(work: Callable[[], object], rounds: int = 3) -> Took:
    """Return the least seconds of some work, after a round that warms it up."""
    work()
    every = [once(work) for _ in range(rounds)]
    return Took(min(t.wall for t in every), min(t.processor for t in every))


if __name__ == "__main__":
    main()
