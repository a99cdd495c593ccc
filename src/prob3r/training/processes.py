"""Processes that work together, if `accelerate launch` started them; else one process."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prob3r.errors import Prob3rError


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
        device: Where it computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all processes."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def any(self, here: bool) -> bool:
        """Return whether a condition is true in any of the processes."""
        found = torch.tensor(float(here), device=self.device)
        self.add_up([found])
        return bool(found)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            torch.distributed.barrier()


def launched(device: str | torch.device = "cpu") -> Processes:
    """Return this process among those that a launcher started, or this process alone.

    Args:
        device: Where to compute; with several processes, `cuda` means one GPU for each.

    Raises:
        Prob3rError: There are several processes, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=torch.device(device))
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise Prob3rError(
            "Several processes need accelerate; install it with `pip install prob3r[scale]`."
        ) from error
    state = PartialState(cpu=torch.device(device).type == "cpu")
    return Processes(state.process_index, state.num_processes, state.device)
