"""Run a protocol: read, reconstruct and measure every scene, and average over scenes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval, auc, bootstrap, bootstrap_interval, percentiles
from prob3r.models import Model
from prob3r.scenes.framing import Framing
from prob3r.scenes.readers import CorruptCount, CorruptError
from prob3r.scenes.sampling import sample
from prob3r.studies.framework.results import provenance
from prob3r.studies.protocols.protocol import ChosenScenes, Metric, Protocol
from prob3r.studies.protocols.reconstruct import (
    AT_ONCE,
    PAIRS,
    how_cameras,
    reconstruct,
    views_at_once,
)


@dataclass(frozen=True)
class Outcome:
    """The result of a model on a protocol.

    Attributes:
        about: The provenance; see `prob3r.studies.framework.results.provenance`.
        table: A row for each metric: the value, its 95 % bootstrap interval over scenes, the unit,
            which values are better, and the number of scenes.
        scenes: A row for each scene, with its numbers.
    """

    about: dict[str, Any]
    table: pd.DataFrame
    scenes: pd.DataFrame

    def content(self) -> dict[str, Any]:
        """Return the content of a result file."""
        rows, scenes = (table.to_dict("records") for table in (self.table, self.scenes))
        return {**self.about, "rows": rows, "scenes": scenes}


def protocol_named(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        Prob3rError: There is no protocol of this name.
    """
    if name not in Protocol.registry:
        raise Prob3rError(
            f"There is no protocol '{name}'; give one of {', '.join(sorted(Protocol.registry))}."
        )
    return Protocol.registry[name]()


def run(
    protocol: Protocol,
    model: Model,
    path: Path,
    *,
    name: str = "",
    listed: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Measure a model on a protocol.

    Args:
        protocol: The protocol.
        model: The model to measure.
        path: The data set's folder.
        name: The model's name.
        listed: A file with the published list of frames; without it the list is rebuilt.
        count: Number of scenes of a seeded sample; by default all. A result on a sample states that
            its frames are not those of the protocol.
        seed: Seed of the sample and of the bootstrap.
        report: A function that is called with the number of scenes done and the number of all
            scenes.

    Raises:
        Prob3rError: The data set or the list cannot be used, more than 1 % of the scenes are
            corrupt, or the model does not take as many views as a scene has.
    """
    chosen = protocol.choose(path, model, listed)
    numbers = list(range(len(chosen.names)))
    if count is not None and count < len(numbers):
        drawn = sample(chosen.scenes, count, seed)
        numbers = list(drawn.indices)
        chosen = chosen.take(numbers, f"{count} of {len(chosen.names)} scenes, seed {seed}")
    counts = sorted({len(names) for names in chosen.names})
    modes = {AT_ONCE if views_at_once(model, views) else PAIRS for views in counts}
    device = next(model.parameters()).device
    rows, skipped, cameras, corrupt = [], list[str](), set[str](), CorruptCount(len(numbers))
    for done, number in enumerate(numbers):
        report(done, len(numbers))
        try:
            scene = chosen.scenes.batch([done]).to(device)
            with torch.no_grad():
                found = reconstruct(model, scene)
                values = protocol.measure(number, scene, found)
        except CorruptError as item:
            corrupt.add(item)
            skipped.append(", ".join(chosen.names[done]))
            continue
        cameras.add(how_cameras(found))
        rows.append({"scene": scene.scenes[0], "views": scene.count, **values})
    report(len(numbers), len(numbers))
    scenes = pd.DataFrame(rows)
    about = provenance(model, name, str(path), protocol.describe(), _frames(protocol, chosen))
    framing = Framing.of(model)
    about["model"] |= {
        "views": " or ".join(sorted(modes)),
        "cameras": " or ".join(sorted(cameras)),
        "framing": f"{framing.crop} side of {framing.size} pixels, patches of {framing.patch}",
    }
    about |= {"skipped": skipped, "checked": protocol.checked}
    return Outcome(about, _table(protocol, scenes, seed), scenes)


def _frames(protocol: Protocol, chosen: ChosenScenes) -> dict[str, Any]:
    """Return the description of the frames for result files."""
    digest = chosen.digest
    published = None if protocol.published is None else digest == protocol.published
    return {
        "digest": digest,
        "published": published,
        "chosen": chosen.words,
        "list": [list(names) for names in chosen.names],
    }


def _table(protocol: Protocol, scenes: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the metrics over all scenes."""
    rows = []
    for metric in protocol.metrics:
        interval = _summary(metric, scenes, torch.Generator().manual_seed(seed))
        counted = int(scenes[metric.of].notna().sum())
        rows.append(
            {
                "metric": metric.name,
                **interval._asdict(),
                "unit": metric.unit,
                "better": metric.better,
                "scenes": counted,
            }
        )
    return pd.DataFrame(rows)


def _summary(metric: Metric, scenes: pd.DataFrame, generator: torch.Generator) -> Interval:
    """Return a metric over all scenes, with its interval."""
    values = torch.tensor(scenes[metric.of].to_numpy(), dtype=torch.float64)
    if metric.area is not None:
        area = partial(auc, threshold=metric.area)
        return bootstrap_interval(values, area, generator=generator)
    if not metric.weight:
        return bootstrap_interval(values, _mean, generator=generator)
    weights = torch.tensor(scenes[metric.weight].to_numpy(), dtype=torch.float64)
    sums = torch.stack([(values * weights).where(weights > 0, 0), weights], dim=1)
    drawn = bootstrap(sums, _sum, generator=generator)
    low, high = percentiles(drawn[:, 0] / drawn[:, 1])
    total = sums.sum(dim=0)
    return Interval(float(total[0] / total[1]), float(low), float(high))


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(dim=-1)


def _sum(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dim=-1)
