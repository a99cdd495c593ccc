"""Training of a probe bank: one frozen backbone forward, one backward for all probes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


def bank_for(model: DUSt3R, kind: str, seed: int = 0) -> tuple[DUSt3R, ProbeBank]:
    """Return a fresh bank of one of `KINDS`, and the backbone to train it on.

    Raises:
        Prob3rError: There is no such kind.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    c = model.config
    device = next(model.parameters()).device
    backbone = random(model, seed).to(device) if kind == "random" else model
    sites = [site for site in model.sites() if Site.parse(site).stack == "dec"]
    width = c.dec_width
    if kind == "encoder":
        sites, width = [f"enc{view}.{c.enc_depth - 1}.mlp" for view in (1, 2)], c.enc_width
    config = ProbeConfig(width, c.patch, depth=1 if kind == "linear" else 5, width=width)
    return backbone, ProbeBank(sites, config, seed=seed).to(device)


def train_probes(
    model: DUSt3R,
    bank: ProbeBank,
    training: ProbeTraining,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train every probe of a bank on rooms, or go on with a run that was stopped at any moment.

    Args:
        model: The backbone, which stays as it is.
        bank: The probes, trained in place.
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


def record_streams(model: DUSt3R, bank: ProbeBank, pair: Pair) -> Float[Tensor, "s t d"]:
    """Return the patches of a batch at every site of a bank, from one forward of the backbone."""
    records = trace(model, pair, bank.sites, output=False)
    return torch.stack([records[site].flatten(0, 1) for site in bank.sites])


def site_losses(
    bank: ProbeBank, streams: Float[Tensor, "s t d"], pair: Pair
) -> Float[Tensor, " s"]:
    """Return each probe's confidence-weighted regression loss (Wang et al. 2024, eq. 4).

    The target is the true pointmap of the probe's view, in the unit in which both views together
    have a mean distance of 1. The prediction is held to that unit as it is: normalising it over
    both views would tie two probes together.
    """
    errors, confidence, seen = _read_off(bank, streams, pair)
    losses = weigh(errors, confidence) * seen
    return losses.sum((1, 2)) / seen.sum((1, 2))


def site_errors(
    bank: ProbeBank, streams: Float[Tensor, "s t d"], pair: Pair
) -> Float[Tensor, " s"]:
    """Return each probe's mean distance to the true points, in the unit of its target."""
    errors, _, seen = _read_off(bank, streams, pair)
    return (errors * seen).sum((1, 2)) / seen.sum((1, 2))


def _read_off(
    bank: ProbeBank, streams: Float[Tensor, "s t d"], pair: Pair
) -> tuple[Tensor, Tensor, Tensor]:
    """Return errors, confidences and valid masks, each `(s, t, p2)`."""
    patch = bank.config.patch
    true = [patchify(p, patch).flatten(0, 1) for p in normalise(pair.points, pair.valid)]
    valid = [patchify(v.float().unsqueeze(-1), patch).flatten(0, 1) for v in pair.valid]
    views = [Site.parse(site).view - 1 for site in bank.sites]
    points, confidence = decode_points(bank(streams))
    errors = (points - torch.stack([true[view] for view in views])).norm(dim=-1)
    return errors, confidence, torch.stack([valid[view].squeeze(-1) for view in views])


class _BankTask(Task):
    def __init__(self, model: DUSt3R, bank: ProbeBank, training: ProbeTraining, folder: Path):
        self.model, self.bank, self.training = model, bank, training
        self.path = folder / "probes.safetensors"
        bank.backbone = fingerprint(model)
        self.identity = f"{bank.header()}, seed {training.seed}"
        self.stages = (training.stage,)
        self.validate_every = training.validate_every
        self.module = bank
        self.optimizers = [torch.optim.AdamW(bank.parameters(), lr=0.0, weight_decay=0.0)]
        self.device = next(model.parameters()).device
        self.losses = torch.compile(site_losses, dynamic=False)

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
        return self.losses(self.bank, record_streams(self.model, self.bank, pair), pair).sum()

    def clip(self) -> None:
        # Probe by probe, so that none is held back by another's gradient.
        gradients = [p.grad for p in self.bank.parameters() if p.grad is not None]
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        scale = (CLIP / norms.clamp(min=1e-12)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(scale[:, None, None])

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
