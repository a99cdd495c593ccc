"""What fitting a bank in closed form costs, beside plain forwards of the backbone.

For DUSt3R-Large at 224 (random weights) and for `mini`: the seconds of processor time that a scene
takes in the pass over the backbone, with all normal equations, as a multiple of a plain forward of
the same batch (the bar is 1.25); what counting floating-point operations says of it; the seconds
that all regressions take to solve once; and the share of one in the other for the default number
of scenes. Processor time is less moved by other work on the machine than time on the clock.

Run `python benchmarks/fit.py [mini|large] [batches]`.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from prob3r.models import DUSt3RConfig, load, random
from prob3r.models.protocol import Model
from prob3r.probes.fit import Fitting
from prob3r.probes.scenes import ROOMS, fit_scenes
from prob3r.probes.settings import FitSettings, scenes_for
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace

BAR = 1.25


def seconds(work: Callable[[], object]) -> float:
    """The processor seconds, of all threads, that some work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def operations(work: Callable[[], object]) -> int:
    """The floating-point operations of some work."""
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        work()
    return int(counter.get_total_flops())


# Torch's own table lacks the product that adds in place.
_FORMULAS = {torch.ops.aten.addmm_: lambda into, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}


def measured(table: Table, name: str, model: Model, batches: int) -> None:
    """Fit on some batches of rooms, turn by turn with plain forwards."""
    fitting = Fitting(
        model, fit_scenes(ROOMS, model, scenes_for(model, FitSettings())), FitSettings()
    )
    rooms: Any = Rooms("train", model.config.image_size, compile=False)
    size = fitting.batch
    pairs = [rooms.batch(range(n * size, (n + 1) * size)) for n in range(batches + 2)]
    fitting.take(pairs[0], held=True)
    fitting.take(pairs[1], held=False)  # warms up
    plain = fitted = 0.0
    for pair in pairs[2:]:
        plain += seconds(lambda pair=pair: trace(model, pair)) / size
        fitted += seconds(lambda pair=pair: fitting.take(pair, held=False)) / size
    plain, fitted = plain / batches, fitted / batches
    counted = [
        operations(lambda: trace(model, pairs[0])),
        operations(lambda: fitting.take(pairs[0], held=False)),
    ]
    solved = seconds(fitting.solve)
    scenes = scenes_for(model, FitSettings())
    table.add_row(
        name,
        f"{size}",
        f"{plain:.3f} s",
        f"{fitted:.3f} s",
        f"{fitted / plain:.3f} (bar {BAR})",
        f"{counted[1] / counted[0]:.3f}",
        f"{solved:.1f} s",
        f"{(fitted * scenes + solved) / (plain * scenes):.3f} over {scenes} scenes",
    )


def main() -> None:
    """Print one table."""
    which = sys.argv[1] if len(sys.argv) > 1 else "both"
    batches = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    table = Table(
        "model", "batch", "forward", "fit", "ratio", "operations", "solving", "all, with solving"
    )
    if which in ("mini", "both"):
        measured(table, "mini at 96", load("mini"), batches)
    if which in ("large", "both"):
        measured(table, "DUSt3R-Large at 224", random(DUSt3RConfig((224, 224))), batches)
    table.caption = f"processor seconds a scene, {torch.get_num_threads()} threads, float32"
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
