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
from prob3r.scenes.views import Pair, View, Views, views_of
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
        batch: Scenes that run at once.
        views: Views of each scene.
        tracing: See `tracing`.
        training: See `training`.
        sweeping: See `sweeping`; None for a model without pointmaps, which are what is measured.
    """

    size: tuple[int, int]
    batch: int
    views: int
    tracing: Cost
    training: Cost
    sweeping: SweepCost | None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it, with the sums."""
        costs = {"tracing": self.tracing, "training": self.training, "sweeping": self.sweeping}
        return asdict(self) | {
            name: asdict(cost) | {"total": cost.total, "operations": cost.operations}
            for name, cost in costs.items()
            if cost is not None
        }


def plan(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
    kind: str = "mlp",
    memory: int = MEMORY,
    *,
    views: int = 2,
    sites: str | None = None,
) -> Plan:
    """Return what tracing, probe training and sweeping take, each as its own function says.

    Args:
        source: A name or path as for `load`, the name of a published model as for `info`, a model,
            or a configuration.
        size: Height and width of the images, in pixels; by default what the model was made for.
        batch: Scenes that run at once.
        record: What is traced; see `trace`.
        kind: Of the probes, one of `KINDS`.
        memory: Bytes that the variants of one stack may take; see `sweep`.
        views: Views of each scene; probes are trained on pairs whatever it is.
        sites: Pattern of the attention sublayers that are swept; by default view 2's attention to
            other views, where they meet.

    Raises:
        Prob3rError: There is no such model or kind, the model takes no such number of views, the
            size is not a whole number of patches, or a pattern matches nothing.
    """
    architecture, config = _described(source)
    return Plan(
        size or config.image_size,
        batch,
        views,
        tracing(source, size, batch, record, views=views),
        training(source, size, batch, kind),
        sweeping(source, size, batch, memory, views=views, sites=sites)
        if architecture.predicts_pointmaps
        else None,
    )


def tracing(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
    *,
    views: int = 2,
) -> Cost:
    """Return what a run that records takes; arguments and errors are those of `plan`."""
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        found, forward = operations(lambda: trace(model, scenes, record))
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
        assert isinstance(pair, Pair)
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
    *,
    views: int = 2,
    sites: str | None = None,
) -> SweepCost:
    """Return what it takes to switch off every head of some attention, one at a time.

    Arguments and errors are those of `plan`. A model without pointmaps is an error, too.
    """
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        if not model.predicts_pointmaps:
            raise Prob3rError(
                f"A {type(model).__name__} has no pointmaps, which a sweep measures; plan for a "
                "model that has."
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
    # A sublayer's heads cost the same, and each as much alone as in a stack; so does measuring.
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
    """Return what it takes to attribute one scalar to all heads and sublayers.

    The baseline is zero, or `another_run`; `bound_memory` is that of `attribute`. Other arguments
    and errors are those of `plan`. The scalar itself is not counted.
    """
    with _dry_run(source, size, batch, views) as (dry_run, model, scenes):
        baseline = AnotherRun(scenes) if another_run else None

        def run() -> Attribution:
            return attribute(model, scenes, _sum, baseline, bound_memory=bound_memory)

        start = dry_run.peak = dry_run.live
        run()
        rest = dry_run.peak - start
        found, every = operations(run)  # not above, as the counter holds what a gradient passes
        _, forward = operations(lambda: trace(model, scenes))
        weights = storage_bytes(model.parameters())
    count = sum(len(part) for part in (found.sublayers, found.heads))
    return Cost(count, weights, activations=rest, forward=forward, backward=every - forward)


def _sum(views: Views, clean: Prediction) -> Measure:
    """Return the sum of all that a model says, which costs nothing."""

    def measure(output: Prediction) -> torch.Tensor:
        parts = output.patches if output.patches is not None else output.points
        return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)

    return measure


def _attention(model: MultiViewModel, views: int, pattern: str | None) -> list[str]:
    """Return the attention sites that a pattern of sublayers matches, or those of the default."""
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
    """Give a dry run, and a model and scenes in it."""
    architecture, config = _described(source)
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
        # Nothing trains the model; torch's counter stumbles over views of weights that learn.
        model = architecture(config).eval().requires_grad_(False)
        yield dry_run, model, _scenes(batch, views, height, width)


def _described(source: Source) -> tuple[type[MultiViewModel], Any]:
    """Return the architecture and the configuration of a model, without reading its weights."""
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


def _scenes(batch: int, views: int, height: int, width: int) -> Views:
    """Return scenes of which all is known that training needs."""
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
