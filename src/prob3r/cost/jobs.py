"""The cost of each job: a trace, a training step, a sweep, an attribution.

There is no table of the costs of layers. The code itself runs in a `DryRun`, which skips the
arithmetic and counts the memory of all tensors; PyTorch's counter counts the operations. A cost is
for float32 on a CPU. It counts tensors only. The memory of Python and its libraries, and of reading
or rendering the pairs, is not included.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prob3r.cost.dry_run import DryRun, operations, storage_bytes
from prob3r.errors import Prob3rError
from prob3r.models import metadata
from prob3r.models.architectures import ARCHITECTURES, architecture_of, published_model
from prob3r.models.checkpoints import config_of
from prob3r.models.factories import installed, is_factory
from prob3r.models.protocol import MultiViewModel, Prediction, Shape, stack_of, trunk
from prob3r.models.sites import BETWEEN_VIEWS, PROBS, Site, select
from prob3r.runs.attribution import AnotherRun, Attribution, Measure, attribute
from prob3r.runs.edits import HeadAblation
from prob3r.runs.replay import Replay
from prob3r.runs.sweep import MEMORY, sweep
from prob3r.runs.trace import trace
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Views, views_of
from prob3r.training.probes import (
    CLIP,
    bank_for,
    clip_rows,
    optimizer_for,
    record_streams,
    site_losses,
)

Source = str | Path | MultiViewModel | Shape

EVERY_SITE = ("*",)

KINDS = ("mlp", "linear")


@dataclass(frozen=True)
class Cost:
    """The memory and the operations that some work needs.

    Attributes:
        count: Number of records, probes, variants, or heads and sublayers, depending on the work.
        weights: Weights of the model, and of the probe bank if one is trained, in bytes.
        records: Recorded residual streams and attention, or what attribution keeps of the run for
            the gradient, in bytes.
        gradients: Gradients of the probe bank, in bytes.
        optimizer: State of the optimizer, in bytes.
        activations: All other tensors at the peak of memory, in bytes: inputs, intermediate
            results, outputs.
        forward: Floating-point operations of the forward passes.
        backward: Floating-point operations of the backward passes, and of blocks that run again
            for them.
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
        """Peak memory in bytes."""
        kept = self.weights + self.records + self.gradients + self.optimizer
        return kept + self.activations

    @property
    def operations(self) -> int:
        """All floating-point operations."""
        return self.forward + self.backward


@dataclass(frozen=True)
class SweepCost(Cost):
    """The memory and the operations that a sweep needs.

    Attributes:
        at_once: Largest number of variants that run as one batch.
        naive: Floating-point operations if every variant were a whole run of the model.
    """

    at_once: int = 1
    naive: int = 0


def tracing(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
    *,
    views: int = 2,
) -> Cost:
    """Return the cost of a run that records sites; arguments and errors are those of `plan`."""
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        found, forward = operations(lambda: trace(model, scenes, record))
        weights, records = storage_bytes(model.parameters()), storage_bytes(found.values())
        rest = dry_run.peak - weights - records
    return Cost(len(found), weights, records, activations=rest, forward=forward)


def training(
    source: Source, size: tuple[int, int] | None = None, batch: int = 1, kind: str = "mlp"
) -> Cost:
    """Return the cost of one step of training a probe bank, with the backbone's forward pass.

    Arguments and errors are those of `plan`.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    with _dry_run(source, size, batch) as (dry_run, model, pair):
        assert isinstance(pair, Pair)
        _, bank = bank_for(model, kind)
        optimizer = optimizer_for(bank)
        for parameter in bank.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # creates its state
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
    *,
    views: int = 2,
    sites: str | None = None,
) -> SweepCost:
    """Return the cost of ablating every head of some attention sublayers, one head at a time.

    Arguments and errors are those of `plan`. A model without pointmaps raises Prob3rError, too.
    """
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        if not model.predicts_pointmaps:
            raise Prob3rError(
                f"A {type(model).__name__} has no pointmaps, and a sweep measures pointmaps; give "
                "a model that predicts them."
            )
        swept = [Site.parse(site).residual for site in _attention(model, views, sites)]
        heads = {site: stack_of(model, site).heads for site in swept}
        replay, once = operations(lambda: Replay(model, scenes))
        most = max(1, memory // replay.bytes_per_variant)
        at_once = {site: min(count, most) for site, count in heads.items()}
        stacks = {
            site: {head: [HeadAblation(str(site), heads=[head])] for head in range(count)}
            for site, count in at_once.items()
        }
        few = {
            site: operations(partial(replay.stack, list(s.values())))[1]
            for site, s in stacks.items()
        }
        del replay
        dry_run.peak = dry_run.live
        _, measured = operations(lambda: sweep(model, scenes, stacks[swept[0]], memory=memory))
        weights = storage_bytes(model.parameters())
        rest = dry_run.peak - weights
    # All heads of a sublayer cost the same, alone and in a batch of variants. So does measuring.
    count, first = sum(heads.values()), swept[0]
    metrics = (measured - once - few[first]) // (1 + at_once[first])
    runs = sum(few[site] * heads[site] // at_once[site] for site in swept)
    forward = once + runs + metrics * (1 + count)
    return SweepCost(
        count,
        weights,
        activations=rest,
        forward=forward,
        at_once=max(at_once.values()),
        naive=count * once,
    )


def attributing(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    *,
    views: int = 2,
    another_run: bool = False,
    bound_memory: bool = True,
) -> Cost:
    """Return the cost of attributing one scalar to all heads and sublayers.

    The operations of the scalar itself are not counted. The records are what is kept of the run
    for the gradient: the activations, and the change at each head and sublayer.

    Args:
        source: As in `plan`.
        size: As in `plan`.
        batch: As in `plan`.
        views: As in `plan`.
        another_run: Whether the baseline is another run of the model; otherwise it is zero.
        bound_memory: As in `attribute`.

    Raises:
        Prob3rError: As in `plan`.
    """
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        baseline = AnotherRun(scenes) if another_run else None
        start, records = dry_run.live, 0

        def kept(scenes: Views, clean: Prediction) -> Measure:
            """Count what lives after the run and before the gradient."""
            nonlocal records
            records = dry_run.live - start - storage_bytes(_tensors(clean))
            return _sum(scenes, clean)

        def run() -> Attribution:
            return attribute(model, scenes, kept, baseline, bound_memory=bound_memory)

        dry_run.peak = start
        run()
        rest, kept_of_run = dry_run.peak - start - records, records
        # In a second run, because the counter keeps tensors of the backward pass alive.
        found, every = operations(run)
        _, forward = operations(lambda: trace(model, scenes))
        weights = storage_bytes(model.parameters())
    heads = sum(effects.shape[1] for effects in found.heads.values())
    return Cost(
        len(found.sublayers) + heads,
        weights,
        kept_of_run,
        activations=rest,
        forward=forward,
        backward=every - forward,
    )


def described(source: Source) -> tuple[type[MultiViewModel], Any]:
    """Return the architecture and the configuration of a model, without reading its weights.

    Raises:
        Prob3rError: There is no such model, or it is made by code.
    """
    if isinstance(source, MultiViewModel):
        return type(source), source.config
    if not isinstance(source, str | Path):
        return architecture_of(source), source
    known = None if Path(source).exists() else published_model(str(source))
    if known is not None:
        return known
    if isinstance(source, str) and (is_factory(source) or source in installed()):
        raise Prob3rError(
            f"'{source}' is made by code; plan takes models of the architectures "
            f"{', '.join(ARCHITECTURES)}."
        )
    card = metadata(source)
    return ARCHITECTURES[card["architecture"]], config_of(card, str(source))


def _sum(views: Views, clean: Prediction) -> Measure:
    """Return a scalar that costs almost nothing: the sum of the model's patches or pointmaps."""

    def measure(output: Prediction) -> torch.Tensor:
        parts = output.patches if output.patches is not None else output.points
        return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)

    return measure


def _tensors(output: Prediction) -> list[torch.Tensor]:
    """Return the tensors of an output."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    output.map(keep)
    return found


def _attention(model: MultiViewModel, views: int, pattern: str | None) -> list[str]:
    """Return the attention sites that a pattern of sublayers matches, or the default ones."""
    every = model.attention_sites(views)
    if pattern is not None:
        return select(f"{pattern}.{PROBS}", every)
    stack = trunk(model).name
    places = [Site.parse(site) for site in every]
    return [
        str(place)
        for place in places
        if place.stack == stack and place.view == 2 and place.sublayer in BETWEEN_VIEWS
    ]


@contextmanager
def _dry_run(
    source: Source, size: tuple[int, int] | None, batch: int, views: int = 2
) -> Iterator[tuple[DryRun, MultiViewModel, Views]]:
    """Give a dry run, with a model and scenes made in it."""
    architecture, config = described(source)
    height, width = size or config.image_size
    if min(height, width) < 1 or height % config.patch or width % config.patch:
        raise Prob3rError(
            f"size is {width}x{height} pixels; both sides must be positive multiples of "
            f"{config.patch}, the side of the model's patches."
        )
    if batch < 1:
        raise Prob3rError(f"batch is {batch}; it must be at least 1.")
    most = architecture.most_views
    if views < 2 or (most is not None and views > most):
        range_ = "2" if most == 2 else "2 or more" if most is None else f"from 2 to {most}"
        raise Prob3rError(
            f"views is {views}; for a model of the architecture {architecture.architecture} it "
            f"must be {range_}."
        )
    with DryRun() as dry_run:
        # The model is not trained, and PyTorch's counter fails on views of trainable weights.
        model = architecture(config).eval().requires_grad_(False)
        yield dry_run, model, _scenes(batch, views, height, width)


def _scenes(batch: int, views: int, height: int, width: int) -> Views:
    """Return scenes without values that have all fields that training needs."""
    size = (batch, height, width)
    return views_of(
        [
            View(
                torch.empty(batch, 3, height, width),
                torch.empty(batch, 3, 3),
                torch.empty(batch, 4, 4),
                torch.empty(size),
                torch.ones(size, dtype=torch.bool),
            )
            for _ in range(views)
        ]
    )
