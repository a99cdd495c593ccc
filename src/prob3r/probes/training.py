"""Training of site readers: one frozen backbone forward, one backward for all sites."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.data.pair import Pair
from prob3r.data.rooms import Rooms
from prob3r.errors import Prob3rError
from prob3r.geometry import normalise, patchify
from prob3r.models import DUSt3R, fingerprint, random
from prob3r.models.heads import decode_points
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.files import KINDS, save_probes
from prob3r.probes.lens import Lens
from prob3r.probes.reader import SiteReader
from prob3r.sites import Site
from prob3r.trace import trace
from prob3r.training import Progress, Stage, Task, run
from prob3r.training.objectives import weigh
from prob3r.training.stream import Stream

CLIP = 1.0  # largest norm of one probe's gradient


@dataclass(frozen=True)
class ProbeTraining:
    """How a bank is trained.

    Attributes:
        stage: Pairs, batch and learning rate.
        seed: Of the weights and the order of the pairs.
        validation_pairs: How many held-out pairs a validation uses.
        validate_every: Pairs between validations.
    """

    stage: Stage
    seed: int = 0
    validation_pairs: int = 128
    validate_every: int = 8192


def default_training(model: DUSt3R, pairs: int, seed: int = 0) -> ProbeTraining:
    """Return how the shipped banks were trained, for as many pairs as wanted."""
    size = model.config.image_size[0]
    # Many small steps: probes need few pairs, and a step costs the same for each of them.
    stage = Stage("pointmaps", size, pairs, batch=8, lr=2e-3, warmup=512, decay=0.6)
    return ProbeTraining(stage, seed, validate_every=1024)


def bank_for(model: DUSt3R, kind: str, seed: int = 0) -> tuple[DUSt3R, SiteReader]:
    """Return what is to be trained as one of `KINDS`, and the backbone to train it on.

    Raises:
        Prob3rError: There is no such kind, or the model's head is not one for it.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    if kind == "tuned":
        return model, Lens.of(model)
    c = model.config
    device = next(model.parameters()).device
    sites = [site for site in model.sites() if Site.parse(site).stack == "dec"]
    width = c.dec_width
    if kind == "encoder":
        sites, width = [f"enc{view}.{c.enc_depth - 1}.mlp" for view in (1, 2)], c.enc_width
    config = ProbeConfig(width, c.patch, depth=1 if kind == "linear" else 5, width=width)
    bank = ProbeBank(sites, config, seed=seed).to(device)
    if kind == "random":
        model, bank.random_seed = random(model, seed).to(device), seed
    return model, bank


def train_probes(
    model: DUSt3R,
    bank: SiteReader,
    training: ProbeTraining,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a bank or a lens on rooms, or go on with a run that was stopped at any moment.

    Args:
        model: The backbone, which stays as it is.
        bank: What is trained, in place, each site as if it were alone.
        training: How.
        folder: Holds the run's state and log, and `probes.safetensors`, the best so far.
        seconds: Stop, with the state saved, after this long.
        report: Called after every stretch of steps.

    Returns:
        The path of the best bank.

    Raises:
        Prob3rError: The folder holds another run's state, or the loss is not finite.
    """
    task = _BankTask(model, bank, training, folder)
    run(task, folder, seconds, report)
    return task.path


def record_streams(model: DUSt3R, reader: SiteReader, pair: Pair) -> Float[Tensor, "s t d"]:
    """Return the patches of a batch at every site of a reader, from one forward of the backbone."""
    records = trace(model, pair, reader.sites, output=False)
    return torch.stack([records[site].flatten(0, 1) for site in reader.sites])


class Group(NamedTuple):
    """Some sites of a reader, and what they are trained to say of one batch.

    Attributes:
        rows: Their rows of the reader's stacks.
        streams: Their patches.
        true: The true points of each patch's pixels, both views together in the unit of their mean
            distance to camera 1.
        seen: 1 where the truth is known, else 0.
    """

    rows: Sequence[Tensor]
    streams: Float[Tensor, "s t d"]
    true: Float[Tensor, "s t p2 3"]
    seen: Float[Tensor, "s t p2"]


def group_losses(reader: SiteReader, group: Group) -> Float[Tensor, " s"]:
    """Return the losses of a group's sites, as `site_losses` describes them."""
    points, confidence = decode_points(reader.read(group.rows, group.streams))
    losses = weigh((points - group.true).norm(dim=-1), confidence) * group.seen
    return losses.sum((1, 2)) / group.seen.sum((1, 2))


def group_errors(reader: SiteReader, group: Group) -> Float[Tensor, " s"]:
    """Return the errors of a group's sites, as `site_errors` describes them."""
    points, _ = decode_points(reader.read(group.rows, group.streams))
    errors = (points - group.true).norm(dim=-1) * group.seen
    return errors.sum((1, 2)) / group.seen.sum((1, 2))


def site_losses(
    reader: SiteReader,
    streams: Float[Tensor, "s t d"],
    pair: Pair,
    of_group: Callable[[SiteReader, Group], Tensor] = group_losses,
) -> Float[Tensor, " s"]:
    """Return each site's confidence-weighted regression loss (Wang et al. 2024, eq. 4).

    The target is the true pointmap of the site's view, in the unit in which both views together
    have a mean distance of 1. The prediction is held to that unit as it is: normalising it over
    both views would tie two sites together.

    Args:
        reader: What is trained.
        streams: The batch at every site, from `record_streams`.
        pair: The batch.
        of_group: `group_losses`, or the same compiled, which is faster.
    """
    return torch.cat([of_group(reader, group) for group in _groups(reader, streams, pair)])


def site_errors(
    reader: SiteReader, streams: Float[Tensor, "s t d"], pair: Pair
) -> Float[Tensor, " s"]:
    """Return each site's mean distance to the true points, in the unit of its target."""
    return torch.cat([group_errors(reader, group) for group in _groups(reader, streams, pair)])


def clip_rows(reader: SiteReader, most: float) -> None:
    """Bound the norm of each site's gradient, so that none is held back by another's."""
    gradients = [p.grad for p in reader.parameters() if p.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(g, dim=(1, 2)) for g in gradients]).norm(dim=0)
    scale = (most / norms.clamp(min=1e-12)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale[:, None, None])


def _groups(reader: SiteReader, streams: Float[Tensor, "s t d"], pair: Pair) -> Iterator[Group]:
    """Cut a batch into groups of sites that are worked on at once."""
    size = _at_once(streams)
    # As in the raw output, channels lie apart in memory.
    true = [
        patchify(p, reader.patch).flatten(0, 1).mT.contiguous()
        for p in normalise(pair.points, pair.valid)
    ]
    seen = [patchify(v.float()[..., None], reader.patch).flatten(0, 1)[..., 0] for v in pair.valid]
    views = torch.tensor([Site.parse(site).view - 1 for site in reader.sites]).split(size)
    rows = zip(*(stack.split(size) for stack in reader.stacks()), strict=True)
    for part, patches, chosen in zip(rows, streams.split(size), views, strict=True):
        points, mask = (torch.stack([both[v] for v in chosen]) for both in (true, seen))
        yield Group(part, patches, points.mT, mask)


def _at_once(streams: Float[Tensor, "s t d"]) -> int:
    """Return how many sites a group has.

    On a CPU it is one, since what one operation wrote of it is still in the cache for the next; a
    GPU is filled by all of them together.
    """
    return len(streams) if streams.is_cuda else 1


class _BankTask(Task):
    def __init__(self, model: DUSt3R, bank: SiteReader, training: ProbeTraining, folder: Path):
        self.model, self.bank, self.training = model, bank, training
        self.path = folder / "probes.safetensors"
        bank.backbone = fingerprint(model)
        self.identity = f"{bank.header()}, seed {training.seed}"
        self.stages = (training.stage,)
        self.validate_every = training.validate_every
        self.module = bank
        learned = [p for p in bank.parameters() if p.requires_grad]
        self.optimizers = [torch.optim.AdamW(learned, lr=0.0, weight_decay=0.0, fused=True)]
        self.device = next(model.parameters()).device
        self.of_group = torch.compile(group_losses, dynamic=False)

    def begin(self, number: int) -> None:
        stage = self.stages[number]
        self.stream = Stream(stage, self.training.seed, self.device)
        rooms = Rooms("validation", (stage.size, stage.size), device=self.device, compile=False)
        self.held_out = [
            rooms.batch(range(start, start + stage.batch))
            for start in range(0, self.training.validation_pairs, stage.batch)
        ]

    def loss(self, step: int) -> Tensor:
        pair = self.stream.batch(step)
        streams = record_streams(self.model, self.bank, pair)
        return site_losses(self.bank, streams, pair, self.of_group).sum()

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
        save_probes(self.bank, self.path, {"validation": metrics})
