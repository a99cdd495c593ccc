"""Evaluation on scenes of several views: cameras and points of a model, beside its controls.

All errors are those of `prob3r.measures.scenes.scene_errors`. The column `source` names what was
measured: `model`; `identity_pose`, all cameras at camera 1's pose, so that translations have no
direction and are wrong by 180 degrees; `shuffled`, the model with view 1 of another scene of the
batch; `random`, the same architecture with random weights.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import bootstrap_interval, median
from prob3r.measures.controls import SHUFFLED
from prob3r.measures.scenes import CAMERA_ERRORS, POINTS, STATED, camera_errors, scene_errors
from prob3r.measures.statistics import mean
from prob3r.models import Model, Prediction, random
from prob3r.models.protocol import needs_pointmaps
from prob3r.runs.precision import running_precision
from prob3r.scenes.sampling import sample
from prob3r.scenes.shuffled import with_other_first
from prob3r.scenes.source import Scenes, batches, describe
from prob3r.scenes.views import Views
from prob3r.studies.framework.results import frames_of, provenance


def evaluate_scenes(
    model: Model,
    scenes: Scenes[Views],
    count: int = 128,
    *,
    batch: int = 8,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Return the errors of a model on scenes of several views, with 95 % bootstrap intervals.

    Args:
        model: The model to measure; it must predict pointmaps.
        scenes: Scenes with the full truth.
        count: Number of scenes: a sample, see `prob3r.scenes.sampling.sample`.
        batch: Scenes in a batch. A batch of one scene has no shuffled control.
        seed: Seed of the sample, of the random weights and of the bootstrap.
        report: Called with the number of scenes done and the number of all scenes.

    Returns:
        A row for each source and metric: the median over scenes (for an AUC the mean), its
        interval, and the number of scenes. `attrs` has the `sample`, the `names` of the scenes and
        the `precision` that the model ran in.

    Raises:
        Prob3rError: The model predicts no pointmaps, or a scene lacks depth or a camera.
    """
    needs_pointmaps(model, "An evaluation on scenes")
    device = next(model.parameters()).device
    untrained = random(model, seed).to(device)
    drawn, names = sample(scenes, count, seed), list[str]()
    values: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        for views in batches(drawn, len(drawn), batch):
            for source, errors in _measured(model, untrained, views.to(device)).items():
                for metric, found in errors.items():
                    values[source, metric].append(found.cpu())
            names += views.names
            report(len(names), len(drawn))
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for (source, metric), parts in values.items():
        found = torch.cat(parts)
        statistic = mean if "auc@" in metric else median
        value, low, high = bootstrap_interval(found, statistic, generator=generator)
        row = {"source": source, "metric": metric, "value": value, "low": low, "high": high}
        rows.append(row | {"scenes": int((~found.isnan()).sum())})
    table = pd.DataFrame(rows)
    table.attrs["sample"] = describe(drawn)
    table.attrs["names"] = names
    table.attrs["precision"] = running_precision(model)
    return table


def _measured(
    model: Model, untrained: Model, views: Views
) -> dict[str, dict[str, Float[Tensor, " b"]]]:
    """Return the errors of a batch by source and metric."""
    if not views.has_truth:
        raise Prob3rError(
            f"{', '.join(views.names)}: there is nothing to measure against; scenes of several "
            "views need the depth and the cameras of all views."
        )
    output, control = model(*views.images), with_other_first(views)
    found = {
        "model": scene_errors(output, views),
        "identity_pose": _identity_errors(output, views),
        "random": scene_errors(untrained(*views.images), views),
    }
    if control.known.any():
        others = scene_errors(model(*control.views.images), views)
        found[SHUFFLED] = {name: error[control.known] for name, error in others.items()}
    return found


def _identity_errors(output: Prediction, views: Views) -> dict[str, Float[Tensor, " b"]]:
    """Return the errors of cameras that are all at camera 1's pose."""
    depth = views.mean_depth
    still = torch.eye(4).to(depth).repeat(len(views), views.count, 1, 1)
    errors = camera_errors(still, views.cam_to_world, depth)
    tellers = (POINTS,) if output.cameras is None else (STATED, POINTS)
    return {f"{teller} {name}": errors[name] for teller in tellers for name in CAMERA_ERRORS}


def about_scenes(
    model: Model, name: str, data: str, views: int, table: pd.DataFrame
) -> dict[str, Any]:
    """Return the provenance of an evaluation, for its result file; see `provenance`.

    Args:
        model: The measured model.
        name: The model's name.
        data: The name of the scenes.
        views: Number of views of each scene.
        table: The table of `evaluate_scenes`.
    """
    protocol = {
        "name": f"scenes of {views} views",
        "data": data,
        "alignment": "the valid points of all views normalised together; a robust similarity gives "
        "each view's pose by its points; stated cameras relative to each other",
    }
    return provenance(
        model, name, data, protocol, frames_of(table.attrs["names"], table.attrs["sample"])
    )
