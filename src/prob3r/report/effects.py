"""What switching off each head does to this pair."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from prob3r.models import Model, Prediction
from prob3r.report.attention import Head
from prob3r.report.reference import Reference
from prob3r.runs.sweep import sweep_heads
from prob3r.scenes import Pair

METRICS = ("rotation_error", "inner_shape_error")


def with_effects(
    heads: list[Head],
    model: Model,
    pair: Pair,
    reference: Reference,
    report: Callable[[float], None],
) -> list[Head]:
    """Return the rows of the table of heads with the effects of switching each head off.

    Args:
        heads: The rows.
        model: Whose heads.
        pair: A batch of one.
        reference: What errors are measured against, with and without the head.
        report: Called with the share of the work that is done.
    """

    def errors(output: Prediction, pair: Pair, clean: Prediction) -> dict[str, Tensor]:
        rows = range(len(pair))
        found = [reference.errors((output.points[0][[i]], output.points[1][[i]]))[1] for i in rows]
        return {name: torch.cat([getattr(one, name) for one in found]) for name in METRICS}

    count = sum(row.head is not None for row in heads)
    table = sweep_heads(model, pair, metrics=errors, report=lambda done: report(done / count))
    effects = table.set_index(["block", "head", "metric"]).effect
    return [
        row
        if row.head is None
        else replace(
            row,
            rotation_effect=float(effects[row.block, row.head, "rotation_error"]),
            inner_shape_effect=float(effects[row.block, row.head, "inner_shape_error"]),
        )
        for row in heads
    ]
