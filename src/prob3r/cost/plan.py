"""Plans: the memory and the operations of tracing, probe training and sweeping, before they run.

Nothing here knows what a layer costs. The code itself runs in a `DryRun`, which skips all
arithmetic and keeps account of every tensor that lives, while torch's counter counts operations.
A plan is for float32 on a CPU, and for tensors: Python and its libraries come on top of it, and so
does what it takes to read or render the pairs.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prob3r.cost.dry_run import DryRun, operations, storage_bytes
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, metadata
from prob3r.models.architectures import ARCHITECTURES
from prob3r.models.protocol import stack_of
from prob3r.models.sites import select
from prob3r.runs.edits import HeadAblation
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import MEMORY, sweep
from prob3r.runs.trace import trace
from prob3r.scenes.views import Pair, View
from prob3r.training.probes import (
    CLIP,
    bank_for,
    clip_rows,
    optimizer_for,
    record_streams,
    site_losses,
)

PUBLISHED = {
    "DUSt3R_ViTLarge_BaseDecoder_224_linear": DUSt3RConfig((224, 224)),
    "DUSt3R_ViTLarge_BaseDecoder_512_linear": DUSt3RConfig((512, 512)),
    "DUSt3R_ViTLarge_BaseDecoder_512_dpt": DUSt3RConfig((512, 512), head="dpt"),
}
"""The configurations of the published checkpoints, which can be planned for without the files."""

Source = str | Path | DUSt3R | DUSt3RConfig

EVERY_SITE = ("enc*", "dec*")

KINDS = ("mlp", "linear")


@dataclass(frozen=True)
class Cost:
    """What some work takes.

    Attributes:
        count: How many records, probes or variants there are.
        weights: Bytes of the model, and of the bank where one is trained.
        records: Bytes of the streams and attention that are recorded.
        gradients: Bytes.
        optimizer: Bytes of its state.
        activations: Bytes of all else that lives when the most does: inputs, intermediate results,
            outputs.
        forward: Floating-point operations.
        backward: The same, of the gradients.
    """

    count: int
    weights: int
    records: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Bytes that live when the most does."""
        kept = self.weights + self.records + self.gradients + self.optimizer
        return kept + self.activations

    @property
    def operations(self) -> int:
        """All floating-point operations."""
        return self.forward + self.backward


@dataclass(frozen=True)
class SweepCost(Cost):
    """What a sweep takes.

    Attributes:
        at_once: How many variants run as one batch.
        naive: Operations of a whole run for every variant.
    """

    at_once: int = 1
    naive: int = 0


@dataclass(frozen=True)
class Plan:
    """What there is to know before work starts.

    Attributes:
        size: Height and width of the images, in pixels.
        batch: Pairs that run at once.
        tracing: See `tracing`.
        training: See `training`.
        sweeping: See `sweeping`.
    """

    size: tuple[int, int]
    batch: int
    tracing: Cost
    training: Cost
    sweeping: SweepCost

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it, with the sums."""
        costs = {"tracing": self.tracing, "training": self.training, "sweeping": self.sweeping}
        return asdict(self) | {
            name: asdict(cost) | {"total": cost.total, "operations": cost.operations}
            for name, cost in costs.items()
        }


def plan(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
    kind: str = "mlp",
    memory: int = MEMORY,
) -> Plan:
    """Return what tracing, probe training and sweeping take, each as its own function says.

    Args:
        source: A name or path as for `load`, one of `PUBLISHED`, a model, or a configuration.
        size: Height and width of the images, in pixels; by default what the model was made for.
        batch: Pairs that run at once.
        record: What is traced; see `trace`.
        kind: Of the probes, one of `KINDS`.
        memory: Bytes that the variants of one stack may take; see `sweep`.

    Raises:
        Prob3rError: There is no such model, kind or pair, the size is not a whole number of
            patches, or a pattern matches nothing.
    """
    return Plan(
        size or _described(source)[1].image_size,
        batch,
        tracing(source, size, batch, record),
        training(source, size, batch, kind),
        sweeping(source, size, batch, memory),
    )


def tracing(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
) -> Cost:
    """Return what a run that records takes; arguments and errors are those of `plan`."""
    with _dry_run(source, size, batch) as (dry_run, model, pair):
        found, forward = operations(lambda: trace(model, pair, record))
        weights, records = storage_bytes(model.parameters()), storage_bytes(found.values())
        rest = dry_run.peak - weights - records
    return Cost(len(found), weights, records, activations=rest, forward=forward)


def training(
    source: Source, size: tuple[int, int] | None = None, batch: int = 1, kind: str = "mlp"
) -> Cost:
    """Return what a step of a probe bank's training takes, the backbone's forward included.

    Arguments and errors are those of `plan`.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    with _dry_run(source, size, batch) as (dry_run, model, pair):
        _, bank = bank_for(model, kind)
        optimizer = optimizer_for(bank)
        for parameter in bank.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes its state
        optimizer.zero_grad()

        dry_run.peak = dry_run.live
        streams, backbone = operations(lambda: record_streams(model, bank, pair))
        _, both = operations(lambda: site_losses(bank, streams, pair).sum().backward())
        clip_rows(bank, CLIP)
        optimizer.step()
        with torch.no_grad():
            _, probes = operations(lambda: site_losses(bank, streams, pair))
        state = [t for values in optimizer.state.values() for t in values.values()]
        kept = {
            "weights": storage_bytes([*model.parameters(), *bank.parameters()]),
            "records": storage_bytes([streams]),
            "gradients": storage_bytes(p.grad for p in bank.parameters()),
            "optimizer": storage_bytes(state),
        }
        rest = dry_run.peak - sum(kept.values())
    forward, backward = backbone + probes, both - probes
    return Cost(len(bank.sites), **kept, activations=rest, forward=forward, backward=backward)


def sweeping(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    memory: int = MEMORY,
) -> SweepCost:
    """Return what it takes to switch off every head of view 2's cross-attention, one at a time.

    Arguments and errors are those of `plan`.
    """
    with _dry_run(source, size, batch) as (dry_run, model, pair):
        sites = select("dec2.*.cross_attn", model.sites())
        heads = stack_of(model, sites[0]).heads
        replay, once = operations(lambda: Replay(model, pair))
        at_once = min(heads, max(1, memory // replay.bytes_per_variant))
        stacks = [
            {head: [HeadAblation(site, heads=[head])] for head in range(at_once)} for site in sites
        ]
        few = [operations(partial(replay.stack, list(s.values())))[1] for s in stacks]
        del replay
        dry_run.peak = dry_run.live
        _, first = operations(lambda: sweep(model, pair, stacks[0], memory=memory))
        count, weights = heads * len(sites), storage_bytes(model.parameters())
        rest = dry_run.peak - weights
    # A sublayer's heads cost the same, and each as much alone as in a stack; so does measuring.
    metrics = (first - once - few[0]) // (1 + at_once)
    forward = once + sum(few) * heads // at_once + metrics * (1 + count)
    return SweepCost(
        count, weights, activations=rest, forward=forward, at_once=at_once, naive=count * once
    )


@contextmanager
def _dry_run(
    source: Source, size: tuple[int, int] | None, batch: int
) -> Iterator[tuple[DryRun, DUSt3R, Pair]]:
    """Give a dry run, and a model and pairs in it."""
    architecture, config = _described(source)
    height, width = size or config.image_size
    if min(height, width) < 1 or height % config.patch or width % config.patch:
        raise Prob3rError(
            f"size is {width}x{height} pixels; both sides must be positive multiples of "
            f"{config.patch}, the side of the model's patches."
        )
    if batch < 1:
        raise Prob3rError(f"batch is {batch}; it must be at least 1.")
    with DryRun() as dry_run:
        yield dry_run, architecture(config).eval(), _pair(batch, height, width)


def _described(source: Source) -> tuple[type[DUSt3R], DUSt3RConfig]:
    """Return the architecture and the configuration of a model, without reading its weights."""
    if isinstance(source, DUSt3R):
        return type(source), source.config
    if isinstance(source, DUSt3RConfig):
        return DUSt3R, source
    name = str(source).removeprefix("naver/")
    if name in PUBLISHED:
        return DUSt3R, PUBLISHED[name]
    card = metadata(source)
    kind = ARCHITECTURES[card["architecture"]]
    if not issubclass(kind, DUSt3R):
        raise Prob3rError(f"'{source}' is a {kind.architecture}; plan takes a DUSt3R.")
    return kind, DUSt3RConfig.from_dict(card["config"])


def _pair(batch: int, height: int, width: int) -> Pair:
    """Return pairs of which all is known that training needs."""
    size = (batch, height, width)
    first, second = (
        View(
            torch.empty(batch, 3, height, width),
            torch.empty(batch, 3, 3),
            torch.empty(batch, 4, 4),
            torch.empty(size),
            torch.ones(size, dtype=torch.bool),
        )
        for _ in range(2)
    )
    return Pair(first, second)
