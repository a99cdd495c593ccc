"""One training step of a bank of `mini`'s shape, beside a plain Python loop over its probes.

Both do the same work on the same patches: forward, loss, backward, clipping probe by probe, AdamW.
The bank is stacked; the loop has a module and an optimizer for every site. The share is that of
the rate at which this machine multiplies two matrices of 1024 x 1024.

Run `python benchmarks/probe_bank.py [pairs in a batch]` on a machine that is idle.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prob3r.geometry import normalise, patchify
from prob3r.models.heads import decode_points
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.training.probes import clip_rows, site_batch_losses, site_losses

ROUNDS, STEPS = 3, 2
SIDE, BLOCKS = 96, 6
CONFIG = ProbeConfig(stream=128, patch=8, depth=5, width=128)
SITES = [f"dec{view}.embed" for view in (1, 2)] + [
    f"dec{view}.{block}.{sublayer}"
    for block in range(BLOCKS)
    for view in (1, 2)
    for sublayer in ("self_attn", "cross_attn", "mlp")
]


def seconds(work: Callable[[], object], steps: int, device: str) -> float:
    """The least time of one step in several rounds; the first, untimed step compiles."""
    work()
    best = float("inf")
    for _ in range(ROUNDS):
        _wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            work()
        _wait(device)
        best = min(best, (time.perf_counter() - start) / steps)
    return best


def banked(streams: Tensor, pair: Pair) -> Callable[[], None]:
    """A step of the bank, as `prob3r train probes` takes it."""
    bank = ProbeBank(SITES, CONFIG).to(streams.device)
    optimizer = torch.optim.AdamW(bank.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    compiled = torch.compile(site_batch_losses, dynamic=False)

    def step() -> None:
        optimizer.zero_grad()
        site_losses(bank, streams, pair, compiled).sum().backward()
        clip_rows(bank, 1.0)
        optimizer.step()

    return step


def looped(streams: Tensor, pair: Pair) -> Callable[[], None]:
    """The same step with a module and an optimizer for every site."""
    widths = [CONFIG.width] * (CONFIG.depth - 1)
    probes = []
    for _ in SITES:
        layers: list[nn.Module] = [nn.LayerNorm(CONFIG.stream), nn.Linear(CONFIG.stream, widths[0])]
        for wide in (*widths[1:], 4 * CONFIG.patch**2):
            layers += [nn.GELU(), nn.Linear(widths[0], wide)]
        probes.append(nn.Sequential(*layers).to(streams.device))
    optimizers = [torch.optim.AdamW(p.parameters(), lr=1e-3, weight_decay=0.0) for p in probes]

    def step() -> None:
        true = normalise(pair.points, pair.valid)
        for row, (site, probe, optimizer) in enumerate(zip(SITES, probes, optimizers, strict=True)):
            view = int(site[3]) - 1
            target = patchify(true[view], CONFIG.patch).flatten(0, 1)
            seen = patchify(pair.valid[view].float().unsqueeze(-1), CONFIG.patch).flatten(0, 1)
            optimizer.zero_grad()
            points, confidence = decode_points(probe(streams[row]).unflatten(-1, (-1, 4)))
            error = confidence * (points - target).norm(dim=-1) - 0.2 * confidence.log()
            ((error * seen.squeeze(-1)).sum() / seen.sum()).backward()
            nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
            optimizer.step()

    return step


def main() -> None:
    """Measure on the GPU if there is one, else on all processor cores."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = Rooms("train", (SIDE, SIDE), device=device, compile=False).batch(range(count))
    patches = count * (SIDE // CONFIG.patch) ** 2
    streams = torch.randn(len(SITES), patches, CONFIG.stream, device=device)
    print(
        f"{len(SITES)} probes, {patches} patches of {count} pairs, on {device}, "
        f"{torch.get_num_threads()} threads"
    )

    square = torch.randn(1024, 1024, device=device)
    peak = 2 * 1024**3 / seconds(lambda: square @ square, 20, device) / 1e9
    weights = sum(w[0].numel() for w in ProbeBank(SITES, CONFIG).weights)
    products = 3 * 2 * weights * patches * len(SITES) / 1e9  # forward, and backward twice as much
    times = {}
    for name, build in (("bank", banked), ("loop", looped)):
        times[name] = seconds(build(streams, pair), STEPS, device)
        rate = products / times[name]
        print(
            f"{name}: {count / times[name]:.1f} pairs/s, {rate:.0f} GFLOP/s, "
            f"{rate / peak:.0%} of the machine's {peak:.0f}"
        )
    print(f"ratio {times['loop'] / times['bank']:.2f}")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
