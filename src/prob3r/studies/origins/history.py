"""Matches and the plateau of the mean pose during training, by checkpoint."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prob3r.measures.heads import match_accuracy
from prob3r.measures.statistics import medians, resampled, wide
from prob3r.studies.origins.checkpoints import counted_from, pairs_seen

TESTED, CHECKPOINT, VARIANT = "subject", "along", "variant"
"""The role of a model in the study, as stored tables name it."""

THOUSAND = 1000


class History(NamedTuple):
    """Measures during training, in the order of the checkpoints.

    In tensors with draws, row 0 is for all pairs, and every other row is a bootstrap draw.

    Attributes:
        seen: Number of training pairs that each checkpoint has seen, in thousands.
        since: The stage from which pairs are counted, in words.
        heads: Number of correspondence heads.
        blocks: Number of blocks with a correspondence head, with draws.
        broken: Whether the plateau is broken, with draws.
        depth: Number of blocks of the decoder.
        pairs: Number of measured pairs.
    """

    seen: Float[Tensor, " w"]
    since: str
    heads: list[int]
    blocks: Int[Tensor, "draws w"]
    broken: Bool[Tensor, "draws w"]
    depth: int
    pairs: int


def history_of(table: pd.DataFrame) -> History:
    """Return the history of a training from the study's table."""
    along = pairs_seen(table[table.role == CHECKPOINT].model.unique())
    parts = in_order(table[table.role == CHECKPOINT])
    heads = [_matching_heads(part) for part in parts]
    return History(
        torch.tensor(list(along.values()), dtype=torch.float64) / THOUSAND,
        counted_from(along),
        [int(found[0].sum()) for found in heads],
        torch.stack([found.any(-1).sum(-1) for found in heads], -1),
        torch.stack([_is_broken(part) for part in parts], -1),
        int(table.block.nunique()),
        int(table.pair.nunique()),
    )


def _matching_heads(table: pd.DataFrame) -> Bool[Tensor, "draws blocks heads"]:
    """Return which heads of a model are correspondence heads: of all pairs, and per draw."""
    heads, middle, drawn, low, control = match_accuracy(table)
    state = torch.cat([(low > control)[None], drawn > control + (middle - low)])
    return by_block(heads, state)


def by_block(heads: list[tuple[int, str]], values: Shaped[Tensor, "*d s"]) -> Tensor:
    """Return values of heads `(..., blocks, heads)`; all blocks have as many."""
    assert heads == sorted(heads, key=lambda head: head[0])
    return values.unflatten(-1, (len({block for block, _ in heads}), -1))


def _is_broken(table: pd.DataFrame) -> Bool[Tensor, " draws"]:
    """Return whether the rotation is better than the control's: for all pairs, and per draw."""
    errors = torch.stack([rotation_of(table, source) for source in ("model", "shuffled")], 1)
    middle, low, high = medians(errors)
    drawn = resampled(errors)
    margin = (high - middle)[0] + (middle - low)[1]
    return torch.cat([(high[0] < low[1])[None], drawn[:, 1] - drawn[:, 0] > margin])


def rotation_of(table: pd.DataFrame, source: str) -> Float[Tensor, " n"]:
    """Return the rotation error of the output, one value a pair."""
    rows = table[(table.metric == "rotation_error") & (table.source == source)]
    return wide(rows, "source")[1][:, 0]


def in_order(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each checkpoint, in the order of the checkpoints."""
    return [table[table.model == name] for name in pairs_seen(table.model.unique())]
