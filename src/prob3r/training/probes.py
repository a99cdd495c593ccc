"""Training of site readers: one forward of the frozen backbone, one backward for all sites."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from prob3r.errors import Prob3rError
from prob3r.geometry import normalise, patchify
from prob3r.models import Model, fingerprint, random
from prob3r.models.heads import decode_points
from prob3r.models.protocol import AnyModel, stack_of, trunk
from prob3r.models.sites import Site
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.files import KINDS
from prob3r.probes.lens import Lens
from prob3r.probes.reader import SiteReader, save_probes
from prob3r.rooms import Rooms
from prob3r.runs.encoded import reusing_views
from prob3r.runs.trace import trace
from prob3r.scenes.source import Pairs, describe
from prob3r.scenes.views import Pair
from prob3r.training.loop import Progress, Task, run
from prob3r.training.objectives import weigh
from prob3r.training.processes import Processes
from prob3r.training.recipe import Stage
from prob3r.training.shares import Drawn, Rendered, Shares
from prob3r.training.stream import Stream

CLIP = 1.0  # largest norm of one probe's gradient


@dataclass(frozen=True)
class ProbeTraining:
    """How a bank is trained.

    Attributes:
        stage: Pairs, batch and learning rate.
        seed: Seed of the weights and of the order of the pairs.
        validation_pairs: Number of held-out pairs that a validation uses.
        validate_every: Pairs between validations.
        accumulate: Number of parts of a process's share of a batch. The parts are computed one
            after the other, which gives the same result in less memory.
        bf16: Whether matrix products are in bfloat16, by autocast.
        workers: Number of worker processes that read ahead, if pairs are read from a disk.
    """

    stage: Stage
    seed: int = 0
    validation_pairs: int = 128
    validate_every: int = 8192
    accumulate: int = 1
    bf16: bool = False
    workers: int = 0


def default_training(model: Model, pairs: int, seed: int = 0) -> ProbeTraining:
    """Return the training of the shipped banks, with any number of pairs."""
    size = model.config.image_size[0]
    # Many small steps: probes need few pairs, and a step costs the same for each of them.
    stage = Stage("pointmaps", size, pairs, batch=8, lr=2e-3, warmup=512, decay=0.6)
    return ProbeTraining(stage, seed, validate_every=1024)


def bank_for(model: AnyModel, kind: str, seed: int = 0) -> tuple[AnyModel, SiteReader]:
    """Return the backbone and the reader to train on it, for one of `KINDS`.

    Raises:
        Prob3rError: There is no such kind, or the model has no sites for it.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    if kind == "tuned":
        return model, Lens.of(model)
    stack = "enc" if kind == "encoder" else trunk(model).name
    sites = [site for site in model.sites() if Site.parse(site).stack == stack]
    if kind == "encoder":
        sites = [s for v in (1, 2) for s in [s for s in sites if Site.parse(s).view == v][-1:]]
    if not sites:
        raise Prob3rError(f"This model has no '{stack}' sites for '{kind}' probes to read.")
    device, width = next(model.parameters()).device, stack_of(model, sites[0]).width
    depth = 1 if kind == "linear" else 5
    config = ProbeConfig(width, model.config.patch, depth, width)
    bank = ProbeBank(sites, config, seed=seed).to(device)
    if kind == "random":
        model, bank.random_seed = random(model, seed).to(device), seed
    return model, bank


def train_probes(
    model: Model,
    bank: SiteReader,
    training: ProbeTraining,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    pairs: Pairs | None = None,
    processes: Processes | None = None,
) -> Path:
    """Train a bank or a lens, or continue a run that was stopped at any moment.

    Several processes share each batch. They end with the same weights as one process, except for
    rounding.

    Args:
        model: The backbone, which does not change.
        bank: The bank or the lens, trained in place. Each site is trained as if it were alone.
        training: How it is trained.
        folder: The folder of the run's state and log, and of `probes.safetensors`, the best so far.
        seconds: Save the state and stop after this time.
        report: Called with the progress, once every few steps.
        pairs: Pairs with the full truth. They are shuffled, and some are held out. The default is
            training rooms.
        processes: The processes that train together, each with its own model. The default is this
            process alone.

    Returns:
        The path of the best bank.

    Raises:
        Prob3rError: The folder holds another run's state, the batch has fewer pairs than there are
            parts, there are too few pairs, or the loss is not finite.
    """
    device = next(model.parameters()).device
    task = _BankTask(model, bank, training, folder, pairs, processes or Processes(device=device))
    with nullcontext() if pairs is None else reusing_views(pairs, model):
        run(task, folder, seconds, report)
    return task.path


def record_streams(model: Model, reader: SiteReader, pair: Pair) -> Float[Tensor, "s t d"]:
    """Return the patches of a batch at every site of a reader, from one forward of the backbone."""
    records = trace(model, pair, reader.sites, output=False)
    return torch.stack([records[site].patches.flatten(0, 1) for site in reader.sites])


class SiteBatch(NamedTuple):
    """Some sites of a reader, and their targets for one batch.

    Attributes:
        rows: The rows of these sites in the reader's stacks of parameters.
        streams: The patches of these sites.
        true: The true points of each patch's pixels, both views together in the unit of their mean
            distance to camera 1.
        seen: 1 where the truth is known, else 0.
        total: Number of pixels in which the truth is known, over the whole batch.
    """

    rows: Sequence[Tensor]
    streams: Float[Tensor, "s t d"]
    true: Float[Tensor, "s t p2 3"]
    seen: Float[Tensor, "s t p2"]
    total: Float[Tensor, " s"]


def site_batch_losses(reader: SiteReader, site_batch: SiteBatch) -> Float[Tensor, " s"]:
    """Return the losses of the sites of a site batch, as `site_losses` describes them."""
    points, confidence = decode_points(reader.read(site_batch.rows, site_batch.streams).float())
    losses = weigh((points - site_batch.true).norm(dim=-1), confidence) * site_batch.seen
    return losses.sum((1, 2)) / site_batch.total


def site_batch_errors(reader: SiteReader, site_batch: SiteBatch) -> Float[Tensor, " s"]:
    """Return the errors of the sites of a site batch, as `site_errors` describes them."""
    points, _ = decode_points(reader.read(site_batch.rows, site_batch.streams).float())
    errors = (points - site_batch.true).norm(dim=-1) * site_batch.seen
    return errors.sum((1, 2)) / site_batch.total


def site_losses(
    reader: SiteReader,
    streams: Float[Tensor, "s t d"],
    pair: Pair,
    of_site_batch: Callable[[SiteReader, SiteBatch], Tensor] = site_batch_losses,
    seen: Float[Tensor, "2"] | None = None,
) -> Float[Tensor, " s"]:
    """Return each site's confidence-weighted regression loss (Wang et al. 2024, eq. 4).

    The target is the true pointmap of the site's view, in the unit in which both views together
    have a mean distance of 1. The prediction is not normalised, because a normalisation over
    both views would make the losses of two sites depend on each other.

    Args:
        reader: The reader that is trained.
        streams: The batch at every site, from `record_streams`.
        pair: The batch.
        of_site_batch: `site_batch_losses`, or the same compiled, which is faster.
        seen: Number of pixels of each view in which the truth is known. If this is one part of a
            batch, it is the number over all parts, so that their losses add up. The default is the
            number of this part.
    """
    seen = seen_pixels(pair) if seen is None else seen
    site_batches = _site_batches(reader, streams, pair, seen)
    if not torch.is_grad_enabled():
        return torch.cat([of_site_batch(reader, site_batch) for site_batch in site_batches])
    early: Callable[..., Tensor] = _SiteLosses.apply
    return early(of_site_batch, reader, site_batches, *reader.stacks())


def site_errors(
    reader: SiteReader, streams: Float[Tensor, "s t d"], pair: Pair
) -> Float[Tensor, " s"]:
    """Return each site's mean distance to the true points, in the unit of its target."""
    site_batches = _site_batches(reader, streams, pair, seen_pixels(pair))
    return torch.cat([site_batch_errors(reader, site_batch) for site_batch in site_batches])


def seen_pixels(pair: Pair) -> Float[Tensor, "2"]:
    """Return the number of pixels of each view of a batch in which the truth is known."""
    return torch.stack([valid.sum() for valid in pair.valid]).float()


def clip_rows(reader: SiteReader, most: float) -> None:
    """Clip the norm of each site's gradient alone, so that no site affects another."""
    gradients = [p.grad for p in reader.parameters() if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in gradients]).norm(dim=0)
    scale = (most / norms.clamp(min=1e-12)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale[:, None, None])


def optimizer_for(reader: SiteReader) -> torch.optim.Optimizer:
    """Return the optimizer of what a reader learns; the loop sets its learning rate."""
    learned = [p for p in reader.parameters() if p.requires_grad]
    return torch.optim.AdamW(learned, lr=0.0, weight_decay=0.0, fused=True)


class _SiteLosses(torch.autograd.Function):
    """The losses of all sites, with gradients that the forward pass computes in site batches.

    The activations of a site batch are freed before the next one starts, so a bank needs the memory
    of the activations of one site batch instead of all. All gradients are allocated first, because
    tensors that are allocated between site batches and kept would fragment the memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        of_site_batch: Callable[[SiteReader, SiteBatch], Tensor],
        reader: SiteReader,
        site_batches: Iterable[SiteBatch],
        *stacks: Tensor,
    ) -> Float[Tensor, " s"]:
        """Return the losses."""
        learned = ctx.needs_input_grad[3:]
        gradients = [torch.empty_like(s) for s in itertools.compress(stacks, learned)]
        losses: list[Tensor] = []
        for site_batch in site_batches:
            with torch.enable_grad():
                rows = [
                    r.detach().requires_grad_(n)
                    for r, n in zip(site_batch.rows, learned, strict=True)
                ]
                found = of_site_batch(reader, site_batch._replace(rows=rows))
                parts = torch.autograd.grad(found.sum(), list(itertools.compress(rows, learned)))
            here = slice(len(losses), len(losses) + len(found))
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[here] = part
            losses += found.detach().unbind()
        ctx.learned, ctx.gradients = learned, gradients
        return torch.stack(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Float[Tensor, " s"]) -> tuple[Tensor | None, ...]:
        """Return the gradients; each site's are those of its own loss."""
        gradients = iter(ctx.gradients)
        ctx.gradients = None  # they are passed on, not kept
        scale = given[:, None, None]
        return None, None, None, *(next(gradients).mul_(scale) if n else None for n in ctx.learned)


def _site_batches(
    reader: SiteReader, streams: Float[Tensor, "s t d"], pair: Pair, total: Float[Tensor, "2"]
) -> Iterator[SiteBatch]:
    """Yield the sites that are computed at once, with their targets."""
    size = _at_once(streams)
    # Each channel is contiguous in memory, as in the raw output.
    true = [
        patchify(p, reader.patch).flatten(0, 1).mT.contiguous()
        for p in normalise(pair.points, pair.valid)
    ]
    seen = [patchify(v.float()[..., None], reader.patch).flatten(0, 1)[..., 0] for v in pair.valid]
    views = torch.tensor([Site.parse(site).view - 1 for site in reader.sites]).split(size)
    rows = zip(*(stack.split(size) for stack in reader.stacks()), strict=True)
    for part, patches, chosen in zip(rows, streams.split(size), views, strict=True):
        points, mask = (torch.stack([both[v] for v in chosen]) for both in (true, seen))
        yield SiteBatch(part, patches, points.mT, mask, total[chosen])


def _at_once(streams: Float[Tensor, "s t d"]) -> int:
    """Return how many sites a site batch has.

    On a CPU it is one, so that the result of each operation is still in the cache for the next one.
    On a GPU it is all sites, because one site alone does not use the whole GPU.
    """
    return len(streams) if streams.is_cuda else 1


class _BankTask(Task):
    def __init__(
        self,
        model: Model,
        bank: SiteReader,
        training: ProbeTraining,
        folder: Path,
        pairs: Pairs | None,
        processes: Processes,
    ):
        parts = processes.count * training.accumulate
        if training.stage.batch < parts:
            raise Prob3rError(
                f"A batch of {training.stage.batch} pairs cannot be shared by {processes.count} "
                f"processes in {training.accumulate} parts each; give a batch of {parts} at least."
            )
        self.model, self.bank, self.training, self.pairs = model, bank, training, pairs
        self.processes = processes
        self.path = folder / "probes.safetensors"
        bank.backbone = fingerprint(model)
        self.identity = f"{bank.header()}, seed {training.seed}"
        self.stages = (training.stage,)
        self.validate_every = training.validate_every
        self.module = bank
        self.optimizers = [optimizer_for(bank)]
        self.device = next(model.parameters()).device
        self.of_site_batch = torch.compile(site_batch_losses, dynamic=False)

    def begin(self, number: int) -> None:
        stage, training = self.stages[number], self.training
        self.shares: Shares
        if self.pairs is not None:
            held_out, workers = training.validation_pairs, training.workers
            drawn = Drawn(self.pairs, stage, training.seed, held_out, workers, self.processes)
            self.shares, self.held_out = drawn, [p.to(self.device) for p in drawn.held_out()]
            return
        self.shares = Rendered(Stream(stage, training.seed, self.device), self.processes)
        rooms = Rooms("validation", (stage.size, stage.size), device=self.device, compile=False)
        self.held_out = [
            rooms.batch(range(start, start + stage.batch))
            for start in range(0, training.validation_pairs, stage.batch)
        ]

    def losses(self, step: int) -> Iterator[Tensor]:
        share = [pair.to(self.device) for pair in self.shares.share(step)]
        seen = torch.zeros(2, device=self.device)
        for pair in share:
            seen += seen_pixels(pair)
        self.processes.add_up([seen])
        for pair in share:
            for rows in torch.arange(len(pair)).tensor_split(self.training.accumulate):
                part = pair[rows.tolist()]
                with torch.autocast(self.device.type, torch.bfloat16, self.training.bf16):
                    streams = record_streams(self.model, self.bank, part)
                    yield site_losses(self.bank, streams, part, self.of_site_batch, seen).sum()

    def clip(self) -> None:
        clip_rows(self.bank, CLIP)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        errors = [
            site_errors(self.bank, record_streams(self.model, self.bank, pair), pair)
            for pair in self.held_out
        ]
        mean = torch.stack(errors).mean(0)
        sites = dict(zip(self.bank.sites, mean.tolist(), strict=True))
        return {"error": mean.mean().item()} | sites

    def score(self, metrics: dict[str, float]) -> float:
        return metrics["error"]

    def save(self, metrics: dict[str, float]) -> None:
        save_probes(self.bank, self.path, {"validation": metrics, "training": self._sample()})

    def _sample(self) -> dict[str, Any]:
        """Return which pairs the bank is trained on, how many, and how they are drawn."""
        stage, held_out = self.training.stage, self.training.validation_pairs
        rooms = f"rooms:train@{stage.size}"
        return {
            "sample": rooms if self.pairs is None else describe(self.pairs),
            "pairs": stage.pairs,
            "batch": stage.batch,
            "held_out": held_out,
            "seed": self.training.seed,
        }
