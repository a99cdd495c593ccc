"""What `prob3r plan` says beside what is measured, for `mini`, a DUSt3R-Large and VGGT-1B at 224.

Of VGGT-1B it is tracing alone, of a scene of four views.

Weights are random and images are noise, which cost what others do. Each work is done in a process
of its own, and its memory is measured in two ways:

- allocated: the most that torch's allocator had handed out at once, from the profiler's events.
  That is what a plan is about, and it can be told to the byte.
- resident: by how much the process grew at most, after the imports and a small run. It has the
  libraries' own buffers and what the allocator keeps on top, which would drown `mini`; so it is
  held against the plan for the large model alone.

The last two rows are of a full bank of the large model: the most memory that the process of
`train_probes` ever held, rendering, compiling and writing included, and a step's time beside that
of the backbone's forward on the same batch.

Run `python benchmarks/plan.py` on an idle machine; on two CPU cores it takes about fifteen minutes,
and `--only mini` one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from prob3r.cost.dry_run import operations
from prob3r.cost.jobs import EVERY_SITE, Cost
from prob3r.cost.plan import Plan, plan
from prob3r.models import DUSt3RConfig, VGGTConfig, random
from prob3r.models.protocol import Shape
from prob3r.runs.sweep import sweep_heads
from prob3r.runs.trace import trace
from prob3r.scenes import View, Views
from prob3r.scenes.views import views_of
from prob3r.training import ProbeTraining, Recipe, Stage, train_probes
from prob3r.training.probes import (
    CLIP,
    bank_for,
    clip_rows,
    optimizer_for,
    record_streams,
    site_batch_losses,
    site_losses,
)

SMALL = DUSt3RConfig((16, 16), 8, 16, 1, 2, 16, 1, 2)
MODELS = {
    "mini": Recipe.read("mini").model,
    "Large": DUSt3RConfig((224, 224)),
    "VGGT-1B": VGGTConfig((224, 224)),
}
WORKS = {"VGGT-1B": ("tracing",)}
VIEWS = {"VGGT-1B": 4}
BATCH = {"tracing": 1, "training": 8, "sweeping": 1}
BAR = 0.15
MEMORY_BAR = 16e9
GB = 1e9


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS, help="one of the models")
    parser.add_argument("--measure", nargs=3, help="internal")
    options = parser.parse_args()
    if options.measure:
        measure, work, name = options.measure
        print(json.dumps(MEASURES[measure](work, name)))
        return
    table = Table("what", "planned", "measured", "planned / measured", "bar")
    for name in [options.only] if options.only else MODELS:
        seconds = once(lambda name=name: planned(name, 1))
        table.add_row(f"{name}: the plan itself", "", f"{seconds:.1f} s", "", "")
        for work in WORKS.get(name, BATCH):
            compare(table, name, work, BATCH[work])
    if options.only in (None, "Large"):
        full_bank(table)
    Console(width=150).print(table)


def compare(table: Table, name: str, work: str, batch: int) -> None:
    """Add the rows of one work on one model."""
    cost: Cost = getattr(planned(name, batch), work)
    found = child("allocated", work, name)
    rows = {"allocated": (cost.total / GB, "GB"), "operations": (cost.operations / 1e9, "GFLOP")}
    if name != "mini":
        found |= child("grown", work, name)
        rows["resident"] = (cost.total / GB, "GB")
    for what, (expected, unit) in rows.items():
        measured = found[what] / 1e9
        ratio = expected / measured
        table.add_row(
            f"{name}, {work}, batch of {batch}: {what}",
            f"{expected:.4g} {unit}",
            f"{measured:.4g} {unit}",
            f"{ratio:.3f}",
            f"within 15 %: {'yes' if abs(ratio - 1) <= BAR else 'NO'}",
        )


def full_bank(table: Table) -> None:
    """Add the rows of a full bank of the large model."""
    resident = child("whole", "training", "Large")["resident"]
    table.add_row(
        "Large, train_probes, 2 steps",
        "",
        f"{resident / GB:.2f} GB at most",
        "",
        f"under 16 GB: {'yes' if resident < MEMORY_BAR else 'NO'}",
    )
    times = child("times", "training", "Large")
    step, forward = times["step"], times["forward"]
    cost = planned("Large", BATCH["training"])
    table.add_row(
        f"Large, a step of the bank, batch of {BATCH['training']}",
        f"{cost.training.operations / cost.tracing.operations:.2f} backbone forwards",
        f"{step:.1f} s; backbone's forward {forward:.1f} s",
        f"{step / forward:.2f} backbone forwards",
        "stated",
    )


@cache
def planned(name: str, batch: int) -> Plan:
    """Return the plan for a model."""
    return plan(MODELS[name], batch=batch, views=VIEWS.get(name, 2))


def child(measure: str, work: str, name: str) -> dict[str, float]:
    """Measure in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, __file__, "--measure", measure, work, name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def noise(config: Shape, batch: int, views: int = 2) -> Views:
    """Scenes of noise of which all is known."""
    generator = torch.Generator().manual_seed(0)
    height, width = config.image_size

    def view() -> View:
        draw = torch.rand(batch, 4, height, width, generator=generator)
        intrinsics = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        return View(
            2 * draw[:, :3] - 1,
            intrinsics.expand(batch, 3, 3),
            torch.eye(4).expand(batch, 4, 4),
            1 + draw[:, 3],
            torch.ones(batch, height, width, dtype=torch.bool),
        )

    return views_of([view() for _ in range(views)])


def tracing(config: Shape) -> Callable[[], object]:
    """Return a run that records every residual site."""
    model = random(config).requires_grad_(False)
    views = next((VIEWS[name] for name in VIEWS if MODELS[name] == config), 2)
    scenes = noise(config, BATCH["tracing"], views)
    return lambda: trace(model, scenes, EVERY_SITE)


def sweeping(config: Shape) -> Callable[[], object]:
    """Return a sweep over view 2's cross-attention heads."""
    model, pair = random(config), noise(config, BATCH["sweeping"])
    return lambda: sweep_heads(model, pair)


def training(config: Shape, compiled: bool = False) -> Callable[[], object]:
    """Return a step of the training of a full bank."""
    model, bank = bank_for(random(config), "mlp")
    pair, optimizer = noise(config, BATCH["training"]), optimizer_for(bank)
    of_site_batch = (
        torch.compile(site_batch_losses, dynamic=False) if compiled else site_batch_losses
    )

    def step() -> None:
        optimizer.zero_grad()
        streams = record_streams(model, bank, pair)
        site_losses(bank, streams, pair, of_site_batch).sum().backward()
        clip_rows(bank, CLIP)
        optimizer.step()

    return step


def allocated(work: str, name: str) -> dict[str, float]:
    """Return the most that torch's allocator had handed out at once, and the operations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        _, counted = operations(ready(work, MODELS[name]))
    assert events.profiler is not None
    assert events.profiler.kineto_results is not None
    found = [e for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(found, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return {"allocated": most, "operations": counted}


def grown(work: str, name: str) -> dict[str, float]:
    """Return by how much the process grew at most."""
    ready(work, SMALL)()  # loads what every run needs
    before = resident()
    ready(work, MODELS[name])()
    return {"resident": resident() - before}


def ready(work: str, config: Shape) -> Callable[[], object]:
    """Return some work on a model, past its beginnings."""
    prepared = {"tracing": tracing, "training": training, "sweeping": sweeping}[work](config)
    if work == "training":
        prepared()  # makes the optimizer's state
    return prepared


def whole(work: str, name: str) -> dict[str, float]:
    """Train a full bank for two steps, as a user does, and return the memory of the process."""
    model, reader = bank_for(random(MODELS[name]), "mlp")
    stage = Stage("pointmaps", 224, 2 * BATCH[work], BATCH[work], lr=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        train_probes(model, reader, ProbeTraining(stage, validation_pairs=8), Path(folder))
    return {"resident": resident()}


def times(work: str, name: str) -> dict[str, float]:
    """Time a step of a full bank, and the backbone's forward on the same batch."""
    step = training(MODELS[name], compiled=True)
    model, pair = random(MODELS[name]), noise(MODELS[name], BATCH[work])
    step()  # compiles
    return {"step": once(step), "forward": once(lambda: trace(model, pair))}


MEASURES: dict[str, Callable[[str, str], dict[str, float]]] = {
    "allocated": allocated,
    "grown": grown,
    "whole": whole,
    "times": times,
}


def once(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident() -> int:
    """Return the most memory that this process ever held, in bytes."""
    # Not from `resource`, which counts what the parent held when it made this process.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
