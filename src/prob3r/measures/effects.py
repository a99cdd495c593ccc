"""The effect of switching off each head on the errors of one scene."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from prob3r.measures.attention import HeadStatistics
from prob3r.measures.reference import Reference
from prob3r.models import Model, Prediction
from prob3r.models.protocol import trunk
from prob3r.runs.sweep import sweep_heads
from prob3r.scenes import Views

METRICS = ("rotation_error", "shape_error")


def with_effects(
    heads: Sequence[HeadStatistics],
    model: Model,
    views: Views,
    reference: Reference,
    report: Callable[[float], None],
) -> list[HeadStatistics]:
    """Return the rows of the table of heads with the effects of switching each head off.

    A head of a view is switched off in that view alone, and the errors are that view's.

    Args:
        heads: The rows.
        model: The model of these heads.
        views: One scene.
        reference: What errors are measured against, with and without the head.
        report: Called with the share of the work that is done.
    """
    count = sum(row.head is not None for row in heads)
    effects: dict[tuple[int, int, int], dict[str, float]] = {}
    for view in range(2, views.count + 1):

        def errors(
            output: Prediction, batch: Views, clean: Prediction, view: int = view
        ) -> dict[str, Tensor]:
            found = reference.errors(output.points)[view - 1]
            return {name: getattr(found, name) for name in METRICS}

        def done(so_far: int, before: int = len(effects)) -> None:
            report((before + so_far) / count)

        for sublayer in dict.fromkeys(p.sublayer for p in trunk(model).between(view)):
            sites = f"{trunk(model).name}{view}.*.{sublayer}"
            table = sweep_heads(model, views, sites, metrics=errors, report=done)
            columns = (table[name].tolist() for name in ("block", "head", "metric", "effect"))
            for block, head, metric, effect in zip(*columns, strict=True):
                effects.setdefault((view, block, head), {})[metric] = effect
    return [
        row
        if row.head is None
        else replace(
            row,
            rotation_effect=effects[row.view, row.block, row.head]["rotation_error"],
            shape_effect=effects[row.view, row.block, row.head]["shape_error"],
        )
        for row in heads
    ]
