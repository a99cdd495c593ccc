"""All ordered pairs of a few views, with every view encoded once, beside encoding those of a pair.

`allowed` is the speed-up that counting floating-point operations allows. Weights are random and
images are noise, which cost what others do. Some of the pairs are run untimed first.

Run `python benchmarks/views.py` on an idle machine; on two CPU cores it takes about five minutes.
"""

import time
from itertools import permutations

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.runs.encoded import encoding_once
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, View
from prob3r.training import Recipe

MODELS = {
    "DUSt3R-Large at 224": (DUSt3RConfig((224, 224)), 4),
    "mini at 96": (Recipe.read("mini").model, 16),
}
BATCH = 6
ROUNDS = 3
RECORD = "dec2.*"


def main() -> None:
    """Print one table."""
    table = Table("what", "each pair", "each view once", "ratio", "allowed", "views encoded")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, (config, count) in MODELS.items():
        model = random(config).to(device).eval()
        generator = torch.Generator().manual_seed(0)
        views = (2 * torch.rand(count, 3, *config.image_size, generator=generator) - 1).to(device)
        numbers = torch.tensor(list(permutations(range(count), 2)))
        pairs = [
            Pair(View(views[first]), View(views[second]))
            for first, second in (rows.T for rows in numbers.split(BATCH))
        ]
        run(model, pairs[:2])
        turns = [(timed(model, pairs, False), timed(model, pairs, True)) for _ in range(ROUNDS)]
        (plain, _), (reused, encoded) = map(min, zip(*turns, strict=True))
        table.add_row(
            f"{name}, {len(numbers)} pairs of {count} views",
            f"{plain:.2f} s",
            f"{reused:.2f} s",
            f"{plain / reused:.2f}",
            f"{allowed(model, pairs[0], count, len(numbers)):.2f}",
            f"{encoded} of {2 * len(numbers)}",
        )
    Console(width=140).print(table)


def run(model: DUSt3R, pairs: list[Pair]) -> None:
    """Trace the pairs."""
    for pair in pairs:
        trace(model, pair, RECORD)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(model: DUSt3R, pairs: list[Pair], reuse: bool) -> tuple[float, int]:
    """Return the seconds that the pairs take, and how many views were encoded."""
    start = time.perf_counter()
    if not reuse:
        run(model, pairs)
        return time.perf_counter() - start, 2 * sum(map(len, pairs))
    with encoding_once(model) as views:
        run(model, pairs)
    return time.perf_counter() - start, views.encoded


def allowed(model: DUSt3R, pair: Pair, views: int, pairs: int) -> float:
    """Return the speed-up that counting operations allows."""
    with FlopCounterMode(display=False) as whole:
        trace(model, pair)
    with FlopCounterMode(display=False) as encoder, torch.no_grad():
        model.encode(pair.view1.image)
    each_pair, each_view = (c.get_total_flops() / len(pair) for c in (whole, encoder))
    return pairs * each_pair / (pairs * (each_pair - 2 * each_view) + views * each_view)


if __name__ == "__main__":
    main()
