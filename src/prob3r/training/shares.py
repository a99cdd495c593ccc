"""The share of each batch of pairs that a process trains probes on, rendered or read."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from prob3r.errors import Prob3rError
from prob3r.scenes.readers import CorruptCount, kind
from prob3r.scenes.source import Pairs, Read, Subset, batches, read_each
from prob3r.scenes.views import Pair, stack
from prob3r.training.processes import Processes
from prob3r.training.recipe import Stage
from prob3r.training.stream import Stream


class Shares(Protocol):
    """The source of a process's pairs."""

    def share(self, step: int) -> list[Pair]:
        """Return this process's pairs of a step, in batches of pairs that can be stacked."""


class Rendered:
    """Shares of a stream of rooms. Each process renders all, which is faster than sending."""

    def __init__(self, stream: Stream, processes: Processes):
        self.stream, self.processes = stream, processes

    def share(self, step: int) -> list[Pair]:
        """Return every `count`-th pair of the step's batch."""
        pair = self.stream.batch(step)
        return [pair[list(range(self.processes.rank, len(pair), self.processes.count))]]


class Drawn:
    """Shares of pairs that are read. Some pairs are held out; the others are shuffled every epoch.

    The pairs of a step depend on the seed and the step alone. Corrupt pairs are left out, and named
    in the log.

    Args:
        pairs: The pairs to draw from.
        stage: States how many pairs a step and the run have.
        seed: Seed of the shuffling.
        validation_pairs: Number of pairs that are held out.
        workers: Number of worker processes that read ahead.
        processes: The processes that share each batch.

    Raises:
        Prob3rError: There are too few pairs for the held-out pairs and one batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        stage: Stage,
        seed: int,
        validation_pairs: int,
        workers: int,
        processes: Processes,
    ):
        if len(pairs) < validation_pairs + stage.batch:
            raise Prob3rError(
                f"There are {len(pairs)} pairs; {validation_pairs} are held out for validation and "
                f"a batch takes {stage.batch}, so give {validation_pairs + stage.batch} at least."
            )
        order = _shuffled(len(pairs), seed)
        self.validation = Subset(pairs, order[:validation_pairs])
        self.pairs = Subset(pairs, order[validation_pairs:])
        self.stage, self.seed, self.workers, self.processes = stage, seed, workers, processes
        self.corrupt = CorruptCount(stage.pairs)
        self._next = -1
        self._reads: Iterator[Read] = iter(())

    def held_out(self) -> Iterator[Pair]:
        """Yield the batches of held-out pairs that a validation uses."""
        return batches(self.validation, len(self.validation), self.stage.batch)

    def share(self, step: int) -> list[Pair]:
        """Read every `count`-th pair of the step; steps requested in order are read ahead."""
        if step != self._next:
            steps = _Steps(self, range(step, self.stage.steps))
            loader = DataLoader(
                steps, batch_size=None, num_workers=self.workers, collate_fn=lambda read: read
            )
            self._reads = iter(loader)
        read = next(self._reads)
        self._next = step + 1
        for item in read.corrupt:
            self.corrupt.add(item)
        alike: dict[Hashable, list[Pair]] = defaultdict(list)
        for pair in read.found:
            alike[kind(pair)].append(pair)
        return [stack(pairs) for pairs in alike.values()]

    def numbers(self, step: int) -> list[int]:
        """Return the indices of the pairs that are this process's share of a step."""
        first = step * self.stage.batch
        places = range(first + self.processes.rank, first + self.stage.batch, self.processes.count)
        epochs = {place // len(self.pairs) for place in places}
        orders = {epoch: _shuffled(len(self.pairs), self.seed, epoch) for epoch in epochs}
        return [orders[place // len(self.pairs)][place % len(self.pairs)] for place in places]


class _Steps(Dataset[Read]):
    """A share's pairs step by step, read in a worker process."""

    def __init__(self, drawn: Drawn, steps: range):
        self.pairs, self.steps = drawn.pairs, steps
        self.numbers = drawn.numbers

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> Read:
        return read_each(self.pairs, self.numbers(self.steps[place]))


def _shuffled(count: int, seed: int, epoch: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 2**20 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order
