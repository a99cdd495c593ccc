"""Sweeping, recording and running a DUSt3R-Large of random weights at 224, and `mini`.

- sweep: every cross-attention head of view 2's decoder switched off, one at a time, beside running
  the full model for each (which is timed on one head of every block). `allowed` is the speed-up
  that counting floating-point operations allows when a variant starts at view 2's block.
- record: a forward that records all residual sites, beside a plain forward.
- memory: the peak while view 2's residual sites are recorded, beside the size of the model and of
  what was recorded: of all tensors, as the allocator counts them, and of the whole process, in
  which the libraries' own buffers count too. These do not shrink with the model.
- official: with `--official PATH`, a checkout of github.com/naver/dust3r with its croco submodule,
  the same weights in the official code: time, peak memory, largest difference of the outputs.

Run `python benchmarks/sweep.py [--official PATH] [--device cuda --dtype bfloat16]` on an idle
machine; on two CPU cores it takes about five minutes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.runs.edits import Edit, HeadAblation
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import sweep
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, View
from prob3r.training import Recipe

LARGE = DUSt3RConfig((224, 224))
MINI = Recipe.read("mini").model
MODELS = {"DUSt3R-Large at 224": LARGE, "mini at 96": MINI}
MIB = 2**20


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, help="a checkout of the official DUSt3R")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--memory", choices=["ours", "official", "recording"], help="internal")
    parser.add_argument("--model", choices=MODELS, default="DUSt3R-Large at 224", help="internal")
    options = parser.parse_args()
    if options.memory:
        print(*peak(options.memory, MODELS[options.model], options.official))
        return
    dtype = getattr(torch, options.dtype)
    table = Table("what", "time", "beside it", "ratio", "bar")
    for name, config in MODELS.items():
        model = random(config).to(options.device, dtype).eval()
        pair = images(config).map(lambda t: t.to(options.device, dtype))
        sweeping(table, name, model, pair)
        recording(table, name, model, pair)
        del model
    if options.device == "cpu":
        memory(table)
        if options.official:
            beside_official(table, options.official)
    Console(width=140).print(table)


def images(config: DUSt3RConfig) -> Pair:
    """A pair of noise at the size of a model."""
    generator = torch.Generator().manual_seed(0)
    size = (1, 3, *config.image_size)
    return Pair(*(View(2 * torch.rand(size, generator=generator) - 1) for _ in range(2)))


def heads(config: DUSt3RConfig) -> dict[tuple[int, int], list[Edit]]:
    """Every cross-attention head of view 2's decoder, switched off."""
    return {
        (block, head): [HeadAblation(f"dec2.{block}.cross_attn", heads=[head])]
        for block in range(config.dec_depth)
        for head in range(config.dec_heads)
    }


def sweeping(table: Table, name: str, model: DUSt3R, pair: Pair) -> None:
    """Time a sweep over all heads, and the full model for one head of every block."""
    config, variants = model.config, heads(model.config)
    some = [variants[block, block % config.dec_heads] for block in range(config.dec_depth)]
    sweep(model, pair, dict(list(variants.items())[-2:]), nearest)  # warms up
    naive = len(variants) / len(some) * once(lambda: [trace(model, pair, edits=e) for e in some])
    swept = once(lambda: sweep(model, pair, variants, nearest))
    replay = Replay(model, pair)
    full = operations(lambda: trace(model, pair))
    rest = [operations(lambda e=edits: replay.run(e)) for edits in some]
    allowed = full * len(variants) / (full + sum(rest) * config.dec_heads)
    ratio = naive / swept
    table.add_row(
        f"{name}: sweep of {len(variants)} heads",
        f"{swept:.1f} s",
        f"full model each {naive:.1f} s",
        f"{ratio:.2f} times faster, {ratio / allowed:.0%} of {allowed:.2f} allowed",
        "6 times, 85 %" if config == LARGE else "",
    )


def nearest(output: Prediction, pair: Pair, clean: Prediction) -> dict[str, torch.Tensor]:
    """A metric that costs nothing, so that the model is what is timed."""
    return {"change": (output.points[1] - clean.points[1]).flatten(1).abs().amax(1).float()}


def recording(table: Table, name: str, model: DUSt3R, pair: Pair) -> None:
    """Time a forward that records all residual sites against a plain one, turn by turn."""
    every = ["enc?.*", "dec?.*"]
    rounds = 4 if model.config == LARGE else 40
    plain, recorded = turns(lambda: trace(model, pair), lambda: trace(model, pair, every), rounds)
    table.add_row(
        f"{name}: record {len(model.sites())} sites",
        f"{1e3 * recorded:.1f} ms",
        f"plain forward {1e3 * plain:.1f} ms",
        f"{recorded / plain - 1:+.1%}",
        "+5 %",
    )


def memory(table: Table) -> None:
    """Compare the peak of recording with what has to be held."""
    for name, config in MODELS.items():
        process, needed = (int(n) for n in child("recording", name))
        for what, took in (("tensors", tensors(config)), ("process", process)):
            table.add_row(
                f"{name}: record view 2, {what}",
                f"{took / MIB:.1f} MiB",
                f"model and records {needed / MIB:.1f} MiB",
                f"{took / needed - 1:+.1%}",
                "+10 %",
            )


def tensors(config: DUSt3RConfig) -> int:
    """Return the most bytes of tensors while view 2's sites are recorded, the model's too."""
    model, pair = random(config).eval(), images(config)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trace(model, pair, ["dec2.*"])
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = sum(t.numel() * t.element_size() for t in model.parameters())
    return held + max(accumulate(size for _, size in changes))


def beside_official(table: Table, checkout: Path) -> None:
    """Run the official code with the same weights."""
    ours = random(LARGE).eval()
    theirs = official(checkout)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    pair = images(LARGE)
    one, two = pair.view1.image, pair.view2.image
    views = [{"img": i, "true_shape": torch.tensor([LARGE.image_size]), "instance": "0"}
             for i in (one, two)]  # fmt: skip

    def run_theirs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        with torch.no_grad():
            return theirs(*views)  # noqa: F821 - it is deleted after the last call

    found, plain = run_theirs(), trace(ours, pair).output
    assert plain is not None
    difference = max(
        (plain.points[0] - found[0]["pts3d"]).abs().max().item(),
        (plain.points[1] - found[1]["pts3d_in_other_view"]).abs().max().item(),
    )
    mine, other = turns(lambda: trace(ours, pair), run_theirs, 4)  # noqa: F821 - as above
    del ours, theirs
    large = "DUSt3R-Large at 224"
    peaks = [int(child(which, large, checkout)[0]) / MIB for which in ("ours", "official")]
    table.add_row(
        "DUSt3R-Large at 224: forward",
        f"{1e3 * mine:.0f} ms, {peaks[0]:.0f} MiB",
        f"official {1e3 * other:.0f} ms, {peaks[1]:.0f} MiB",
        f"{mine / other:.2f}, outputs differ by {difference:.1e}",
        "",
    )


def official(checkout: Path) -> torch.nn.Module:
    """Build the official model at the shape of `LARGE`."""
    sys.path.insert(0, str(checkout))
    from dust3r.model import AsymmetricCroCo3DStereo

    inf = float("inf")
    model: torch.nn.Module = AsymmetricCroCo3DStereo(
        pos_embed="RoPE100",
        img_size=LARGE.image_size,
        head_type="linear",
        output_mode="pts3d",
        depth_mode=("exp", -inf, inf),
        conf_mode=("exp", 1, inf),
        enc_embed_dim=LARGE.enc_width,
        enc_depth=LARGE.enc_depth,
        enc_num_heads=LARGE.enc_heads,
        dec_embed_dim=LARGE.dec_width,
        dec_depth=LARGE.dec_depth,
        dec_num_heads=LARGE.dec_heads,
    )
    return model.eval()


def peak(which: str, config: DUSt3RConfig, checkout: Path | None) -> tuple[int, int]:
    """Return by how many bytes this process grew at most, and how many it had to hold."""
    small = DUSt3RConfig((16, 16), 8, 16, 1, 2, 16, 1, 2)
    trace(random(small), images(small), ["dec2.*"])  # loads what every run needs
    before = _resident()
    if which == "official":
        assert checkout is not None
        theirs, pair = official(checkout), images(LARGE)
        views = [{"img": v.image, "true_shape": torch.tensor([LARGE.image_size]), "instance": "0"}
                 for v in (pair.view1, pair.view2)]  # fmt: skip
        with torch.no_grad():
            theirs(*views)
        return _resident() - before, 0
    model = DUSt3R(config).eval()
    run = trace(model, images(config), ["dec2.*"] if which == "recording" else ())
    held = [*model.parameters(), *run.values()]
    return _resident() - before, sum(t.numel() * t.element_size() for t in held)


def child(which: str, model: str, checkout: Path | None = None) -> list[str]:
    """Measure memory in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, __file__, "--memory", which, "--model", model]
    command += ["--official", str(checkout)] if checkout else []
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]


def once(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def turns(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Return the least seconds of two works that take turns, after a round that warms them up."""
    both = [(once(one), once(other)) for _ in range(rounds + 1)][1:]
    return min(a for a, _ in both), min(b for _, b in both)


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _resident() -> int:
    """Return the most memory that this process ever held, in bytes."""
    # Not from `resource`, which counts what the parent held when it made this process.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
