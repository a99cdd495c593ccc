"""How many pairs of rooms are rendered in a second: plain, compiled, and the ratio.

Run `python benchmarks/rooms.py [pairs in a batch] [side in pixels]` on a machine that is idle.
"""

import sys
import time

import torch

from prob3r.rooms import Rooms

ROUNDS = 5


def pairs_per_second(rooms: Rooms, count: int) -> float:
    """The best of several rounds, each of other pairs; the first, untimed one compiles."""
    rooms.batch(range(count))
    best = float("inf")
    for number in range(1, ROUNDS + 1):
        start = time.perf_counter()
        rooms.batch(range(number * count, (number + 1) * count))
        if rooms.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return count / best


def main() -> None:
    """Measure on the GPU if there is one, else on all processor cores."""
    count, side = (int(a) for a in (*sys.argv[1:3], *("128", "64")[len(sys.argv) - 1 :]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{count} pairs of {side}x{side} on {device}, {torch.get_num_threads()} threads")
    for samples in (1, 2):
        speeds = []
        for compiled in (True, False):
            rooms = Rooms("train", (side, side), device=device, compile=compiled, samples=samples)
            speeds.append(pairs_per_second(rooms, count))
            name = "compiled" if compiled else "plain"
            print(f"samples={samples}: {name} {speeds[-1]:.0f} pairs/s", flush=True)
        print(f"samples={samples}: ratio {speeds[0] / speeds[1]:.1f}", flush=True)


if __name__ == "__main__":
    main()
