"""Checkpoints along a training: their names, and when something sets in for good.

They are named `NAME-STAGE-PAIRS`, after the pairs seen in their stage. A stage is as long as the
last of its weights, which are always kept; with none of the first stages, pairs are counted from
the first stage there is.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError


class Checkpoint(NamedTuple):
    """What the name of a checkpoint says."""

    training: str
    stage: int
    pairs: int


def checkpoint_of(name: str) -> Checkpoint | None:
    """Return what a name says, None if it is not that of a checkpoint."""
    match = re.fullmatch(r"(.+)-(\d+)-(\d+)", name)
    return Checkpoint(match[1], int(match[2]), int(match[3])) if match else None


def pairs_seen(names: Iterable[str]) -> dict[str, int]:
    """Return the names of checkpoints, in their order, with the pairs seen until then.

    Args:
        names: Those of other models among them are left out.

    Raises:
        Prob3rError: The weights are of more than one training, or a stage between them is missing.
    """
    found = {name: said for name in names if (said := checkpoint_of(name))}
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
    """Return from where `pairs_seen` counts, in words: nothing if from the very start."""
    first = min(said.stage for name in names if (said := checkpoint_of(name)))
    return f" from stage {first} on" if first else ""


def onset(state: Bool[Tensor, "*d w"], seen: Float[Tensor, " w"]) -> Float[Tensor, "*d"]:
    """Return where a state sets in that lasts to the end, NaN where it does not hold at the end.

    Args:
        state: Whether it holds, at each checkpoint.
        seen: How many pairs each checkpoint has seen.
    """
    lasting = state.flip(-1).int().cummin(-1).values.sum(-1)
    return torch.cat([seen, seen.new_tensor([torch.nan])])[len(seen) - lasting]
