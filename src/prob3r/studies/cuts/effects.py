"""Effects of named variants: how edits change the cameras and the points of a scene.

A variant is a `NamedTuple` whose fields identify it, such as a mode and a number of heads. The
fields become the columns of the table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prob3r.measures.scenes import POINTS, STATED, scene_errors
from prob3r.measures.statistics import wide
from prob3r.models import Model, Prediction
from prob3r.runs.edits import Edit, Setting
from prob3r.runs.sweep import Metric, spread, sweep
from prob3r.scenes.views import Views

POINTMAP = "pointmap_error"
"""The error of the points."""


def effects_of(
    model: Model,
    views: Views,
    variants: Mapping[Any, Sequence[Edit]],
    metrics: Metric | None = None,
) -> pd.DataFrame:
    """Return the change that every variant makes to every error of `measures.scenes`.

    Args:
        model: The model.
        views: Scenes with the full truth.
        variants: Edits by variant. All variants are of one type of `NamedTuple`.
        metrics: A function that measures other errors instead.

    Returns:
        A row for each variant, scene and error: the fields of the variant, `pair`, `metric`,
        `clean` (the error without edits) and `value` (the error with the edits less `clean`).
        A scene that no edit of a variant changes has no row of that variant.

    Raises:
        Prob3rError: There is no variant, or an edit does not fit the model or the scenes.
    """
    setting = Setting.of(model, views)
    changed = {
        name: {row for edit in edits for row in edit.rows(setting).tolist()}
        for name, edits in variants.items()
    }
    table = sweep(model, views.named(()), variants, metrics or _errors)
    kept = [row in changed[name] for name, row in zip(table.variant, table.pair, strict=True)]
    table["value"] = table.pop("effect")
    return spread(table[kept].reset_index(drop=True))


def camera_metric(table: pd.DataFrame, of: str = "rotation_error") -> str:
    """Return the metric of the stated cameras, or, without them, that of cameras by the points."""
    stated = f"{STATED} {of}"
    return stated if (table.metric == stated).any() else f"{POINTS} {of}"


def modes_in(table: pd.DataFrame, modes: Sequence[str]) -> list[str]:
    """Return the modes of a cut that a table has: of one scene alone nothing is resampled."""
    return [mode for mode in modes if (table["mode"] == mode).any()]


def effect(table: pd.DataFrame, metric: str, **fields: object) -> Float[Tensor, " n"]:
    """Return the effect of one variant on an error, scene by scene.

    Args:
        table: From `effects_of`.
        metric: The error.
        fields: Values of the fields that identify the variant.
    """
    chosen = table[table.metric == metric]
    for name, value in fields.items():
        chosen = chosen[chosen[name] == value]
    return wide(chosen, "metric")[1][:, 0]


def _errors(output: Prediction, views: Views, clean: Prediction) -> dict[str, Tensor]:
    return scene_errors(output, views)
