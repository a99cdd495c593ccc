"""Checkpoints of a training: their names, and the checkpoint from which on a state lasts.

They are named `NAME-STAGE-PAIRS`, after the number of pairs seen in their stage. The length of a
stage is that of its last checkpoint, which is always kept. If the first stages have no checkpoints,
pairs are counted from the first stage that has some.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError


class CheckpointName(NamedTuple):
    """The parts of a checkpoint's name."""

    training: str
    stage: int
    pairs: int


def checkpoint_name(name: str) -> CheckpointName | None:
    """Return the parts of a checkpoint's name; None for any other name."""
    match = re.fullmatch(r"(.+)-(\d+)-(\d+)", name)
    return CheckpointName(match[1], int(match[2]), int(match[3])) if match else None


def pairs_seen(names: Iterable[str]) -> dict[str, int]:
    """Return the names of checkpoints in order, with the number of pairs seen until each.

    Args:
        names: Names of models; those that are not checkpoints are left out.

    Raises:
        Prob3rError: The weights are of more than one training, or a stage between them is missing.
    """
    found = {name: said for name in names if (said := checkpoint_name(name))}
    trainings = {said.training for said in found.values()}
    if len(trainings) > 1:
        raise Prob3rError(
            f"The checkpoints are of {' and '.join(sorted(trainings))}; give those of one training."
        )
    # The last entry of a stage, which stays, is that of its last weights.
    lengths = dict(sorted((said.stage, said.pairs) for said in found.values()))
    if lengths and len(lengths) <= max(lengths) - min(lengths):
        raise Prob3rError(
            f"The checkpoints are of stages {', '.join(map(str, lengths))} alone; give "
            "the last of every stage between them too."
        )
    return {
        name: sum(length for stage, length in lengths.items() if stage < said.stage) + said.pairs
        for name, said in sorted(found.items(), key=lambda item: item[1])
    }


def counted_from(names: Iterable[str]) -> str:
    """Return from which stage `pairs_seen` counts, in words; empty if from the first stage."""
    first = min(said.stage for name in names if (said := checkpoint_name(name)))
    return f" from stage {first} on" if first else ""


def onset(state: Bool[Tensor, "*d w"], seen: Float[Tensor, " w"]) -> Float[Tensor, "*d"]:
    """Return the pairs seen when a state begins that lasts to the end; NaN if it does not last.

    Args:
        state: Whether the state holds at each checkpoint.
        seen: Number of pairs that each checkpoint has seen.
    """
    lasting = state.flip(-1).int().cummin(-1).values.sum(-1)
    return torch.cat([seen, seen.new_tensor([torch.nan])])[len(seen) - lasting]
