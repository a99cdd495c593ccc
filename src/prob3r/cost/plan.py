"""Plans: the memory and the operations of traces, training, sweeps and attribution, before a run.

`prob3r.cost.jobs` counts the cost of each job, and says what a cost includes.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from prob3r.cost.jobs import (
    EVERY_SITE,
    Cost,
    Source,
    SweepCost,
    attributing,
    described,
    sweeping,
    tracing,
    training,
)
from prob3r.runs.sweep import MEMORY


@dataclass(frozen=True)
class Plan:
    """The costs of tracing, probe training and sweeping for one model.

    Attributes:
        size: Height and width of the images, in pixels.
        batch: Scenes in a batch.
        views: Views of each scene.
        tracing: See `tracing`.
        training: See `training`.
        sweeping: See `sweeping`; None for a model without pointmaps, because a sweep measures
            pointmaps.
        attributing: See `attributing`, with zero as the baseline.
    """

    size: tuple[int, int]
    batch: int
    views: int
    tracing: Cost
    training: Cost
    sweeping: SweepCost | None
    attributing: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as values that fit JSON, with the totals."""
        costs = {
            "tracing": self.tracing,
            "training": self.training,
            "sweeping": self.sweeping,
            "attributing": self.attributing,
        }
        return asdict(self) | {
            name: asdict(cost) | {"total": cost.total, "operations": cost.operations}
            for name, cost in costs.items()
            if cost is not None
        }


def plan(
    source: Source,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    record: str | Iterable[str] = EVERY_SITE,
    kind: str = "mlp",
    memory: int = MEMORY,
    *,
    views: int = 2,
    sites: str | None = None,
) -> Plan:
    """Return the costs of `tracing`, `training`, `sweeping` and `attributing`.

    Args:
        source: A name or path as for `load`, the name of a published model as for `info`, a model,
            or a configuration.
        size: Height and width of the images, in pixels; by default those of the model's
            configuration.
        batch: Scenes in a batch.
        record: Patterns of the sites that are traced; see `trace`.
        kind: Kind of the probes, one of `KINDS`.
        memory: Bytes that the variants of one stack may take; see `sweep`.
        views: Views of each scene. Probes are always trained on pairs.
        sites: Pattern of the attention sublayers that are swept; by default those of the trunk in
            which view 2 attends to other views.

    Raises:
        Prob3rError: There is no such model or kind, the model does not take this number of views,
            a side of the size is not a positive multiple of the patch, the batch is below 1, or a
            pattern matches nothing.
    """
    architecture, config = described(source)
    return Plan(
        size or config.image_size,
        batch,
        views,
        tracing(source, size, batch, record, views=views),
        training(source, size, batch, kind),
        sweeping(source, size, batch, memory, views=views, sites=sites)
        if architecture.predicts_pointmaps
        else None,
        attributing(source, size, batch, views=views),
    )
