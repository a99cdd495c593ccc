"""Training of dictionaries on recorded activations, by the loop of all trainings.

The loss is the share of the variance that is not explained. Atoms that have not been active for a
long time learn to explain the error of the others (AuxK of Gao et al. 2024), so that few atoms stay
dead.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.io.files import make_folder
from prob3r.models import Model
from prob3r.models.protocol import stack_of
from prob3r.probes.coders import largest_positive
from prob3r.probes.dictionary import (
    ACTIVE,
    ATOMS_PER_CHANNEL,
    Dictionary,
    DictionaryShape,
    file_name,
    sites_of,
)
from prob3r.training.activations import Shards, TokenStream
from prob3r.training.loop import Progress, Task, run
from prob3r.training.recipe import Stage

AUX = 1 / 32
"""The weight of the loss of dead atoms, as in Gao et al."""

CLIP = 1.0  # largest norm of the gradient


@dataclass(frozen=True)
class DictionaryTraining:
    """How a dictionary is trained.

    Attributes:
        atoms: The number of atoms; by default four for each channel.
        active: The most atoms that are active at one token.
        tokens: Number of tokens of the whole training.
        batch: Number of tokens of a step.
        lr: Peak learning rate of Adam.
        dead: An atom counts as dead if it was not active for more than this many tokens.
        seed: Seed of the weights and of the order of the tokens.
    """

    atoms: int | None = None
    active: int = ACTIVE
    tokens: int = 1_000_000
    batch: int = 1024
    lr: float = 1e-3
    dead: int = 100_000
    seed: int = 0

    @property
    def stage(self) -> Stage:
        """The training as a stage of the loop; its pairs are tokens."""
        return Stage(
            "pointmaps", 1, self.tokens, self.batch, self.lr, warmup=8 * self.batch, decay=0.3
        )


def train_dictionary(
    model: Model,
    shards: Shards,
    pattern: str,
    training: DictionaryTraining,
    folder: Path,
    *,
    random_seed: int | None = None,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a dictionary, or continue a run that was stopped at any moment.

    Args:
        model: The model of the activations; it is not run.
        shards: The activations.
        pattern: The pattern of sites.
        training: How it is trained.
        folder: The folder of the dictionary. Its folder `runs` holds the state of the run.
        random_seed: Seed of the model's weights if the model is the control with random weights.
        seconds: Save the state and stop after this time.
        report: Called with the progress, once every few steps.

    Returns:
        The path of the dictionary.

    Raises:
        Prob3rError: The folder holds another run's state, or there are too few tokens.
    """
    site = sites_of(model, pattern, shards.about.views)[0]
    device = next(model.parameters()).device
    width = stack_of(model, site).width
    shape = DictionaryShape(
        pattern,
        width,
        training.atoms or ATOMS_PER_CHANNEL * width,
        training.active,
        shards.about.special,
        shards.about.model,
        random_seed,
        shards.about.words,
    )
    dictionary = Dictionary.drawn(shape, training.seed).to(device)
    make_folder(folder)
    task = _Task(dictionary, shards, training, folder / file_name(shape))
    run(task, folder / "runs" / task.path.stem, seconds, report)
    return task.path


class _Learned(nn.Module):
    """A dictionary, and the number of tokens since each atom was last active."""

    def __init__(self, dictionary: Dictionary):
        super().__init__()
        self.dictionary = dictionary
        silent = torch.zeros(dictionary.units, device=dictionary.mean.device)
        self.register_buffer("silent", silent)
        self.silent: Tensor


class _Task(Task):
    """The training of a dictionary; the loop's pairs are tokens."""

    def __init__(
        self, dictionary: Dictionary, shards: Shards, training: DictionaryTraining, path: Path
    ):
        self.dictionary, self.training, self.path = dictionary, training, path
        shape, stage = dictionary.shape, training.stage
        # Everything that decides the result.
        self.identity = f"dictionary {shape} {training} on {shards.about}"
        self.stages = (stage,)
        self.validate_every = training.tokens
        self.module = self.learned = _Learned(dictionary)
        self.optimizers = [torch.optim.Adam(dictionary.parameters(), lr=0.0, betas=(0.9, 0.999))]
        device = dictionary.mean.device
        self.stream = TokenStream(shards, shape.sites, training.batch, training.seed, device)
        dictionary.fit_moments(*(t.to(device) for t in shards.moments(shape.sites)))
        self._last = {"unexplained": math.inf, "dead": 0.0}

    def begin(self, number: int) -> None:
        """Do nothing: there is one stage, and it needs no preparation."""

    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield the loss of a step."""
        tokens = self.stream.batch(step)
        dictionary, silent = self.dictionary, self.learned.silent
        standard = dictionary.standard(tokens)
        products = dictionary.products(standard)
        codes = largest_positive(products, dictionary.shape.active)
        atoms = dictionary.atoms
        left = standard - (codes @ atoms + dictionary.bias)
        loss = left.square().mean()
        with torch.no_grad():
            silent += len(tokens)
            silent[(codes > 0).any(0)] = 0
            dead = silent > self.training.dead
        self._last = {
            "unexplained": float(loss.detach()),
            "dead": float(dead.float().mean()),
        }
        if dead.any():
            loss = loss + AUX * self._of_dead(products, left.detach(), atoms, dead)
        yield loss

    def _of_dead(self, products: Tensor, left: Tensor, atoms: Tensor, dead: Tensor) -> Tensor:
        """Return the share of the remaining error that the dead atoms do not explain."""
        count = min(int(dead.sum()), self.dictionary.shape.width // 2)
        codes = largest_positive(products.masked_fill(~dead, -torch.inf), count)
        error: Float[Tensor, ""] = (left - codes @ atoms).square().mean()
        return error / left.square().mean().clamp_min(1e-12)

    def clip(self) -> None:
        """Clip the gradients."""
        nn.utils.clip_grad_norm_(self.dictionary.parameters(), CLIP)

    def measure(self) -> dict[str, float]:
        """Return the metrics of the last step."""
        return self._last

    def score(self, metrics: dict[str, float]) -> float:
        """Return infinity: the weights that count are those at the end, not the best so far."""
        return math.inf

    def save(self, metrics: dict[str, float]) -> None:
        """Do nothing; see `end`."""

    def end(self, number: int) -> None:
        """Write the dictionary."""
        self.dictionary.save(self.path)
