"""Evaluation: all errors of a model, and of probes of its sites, together with references.

References are measured on the same pairs: `mean_pose` puts view 2's true shape at the mean pose of
the training rooms; `identity_pose` puts camera 2 where camera 1 is, so its translation has no
direction and counts as wrong by 180 degrees; `shuffled` shows the model another view 1 (see
`prob3r.measures.controls`); `random` is the same architecture with random weights.

The column `source` names what was measured. `model` is the model's own output and, at its sites,
the MLP probes. Any other reader is a source of its own, by its kind (`linear`, `tuned`, `logit`,
`encoder`). The output and the probes of the random control are both `random`. `descriptors` are the
reciprocal matches of a model with descriptors: the share of them that is right, and the pose that
follows from them alone. For a model without pointmaps only the readers are measured.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import (
    PoseAndShape,
    auc,
    bootstrap_interval,
    intrinsics_from_pointmap,
    mean_depth,
    median,
    normalise,
    pointmap_error,
    pose_error,
    pose_of_pointmap,
    reciprocal_matches,
    relative_pose,
    rotation_error,
    transform,
    translation_error,
)
from prob3r.measures.controls import (
    SHUFFLED,
    describe_controls,
)
from prob3r.measures.errors import twins
from prob3r.measures.strata import strata
from prob3r.models import Model, random
from prob3r.models.protocol import predicts_pointmaps
from prob3r.models.sites import Site
from prob3r.probes import SiteReader, backbone_of
from prob3r.reliability.classical import pose_from_matches, right_matches
from prob3r.rooms import Rooms
from prob3r.runs.encoded import reusing_views
from prob3r.runs.precision import running_precision
from prob3r.runs.trace import trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.source import Pairs, batches, describe
from prob3r.scenes.views import Pair
from prob3r.studies.framework.results import frames_of, provenance, write_result

HEAD = "head"
"""The site of the model's own output."""

AUC_DEGREES = (5, 15, 30)

NEED_DEPTH = {
    "pointmap_error of view 1": ("pointmap_error", 1),
    "pointmap_error of view 2": ("pointmap_error", 2),
    "scale_error": ("scale_error", 2),
    "shape_error": ("shape_error", 2),
    "auc": (f"auc@{AUC_DEGREES[0]}", 2),
}
"""The metrics that need depth, by their words: metric and view."""

MEAN_POSE_PAIRS = 2048

MATCH_STEP = 8
"""Spacing in pixels of the places in view 2 from which descriptors are matched."""

_VIEWLESS = {"pointmap_error1": "pointmap_error", "pointmap_error2": "pointmap_error"}


@dataclass
class _Measured:
    """Values pair by pair, of each source, site and metric, by the stratum of the pairs.

    Attributes:
        values: Of each batch; `easy` and `hard` hold the rows of those pairs whose stratum is
            known, and every batch is in `all`.
        controls: How many pairs have which shuffled control.
        without_depth: How many pairs lack the depth of a view.
        names: Of the pairs.
    """

    values: dict[tuple[str, str, str, str], list[Tensor]] = field(
        default_factory=lambda: defaultdict(list)
    )
    controls: Counter[str] = field(default_factory=Counter)
    without_depth: int = 0
    names: list[str] = field(default_factory=list)

    def add(
        self, source: str, site: str, errors: Mapping[str, Tensor], rows: Mapping[str, Tensor]
    ) -> None:
        for metric, values in errors.items():
            self.values[source, site, metric, "all"].append(values)
            for stratum, chosen in rows.items():
                self.values[source, site, metric, stratum].append(values[chosen])


def evaluate(
    model: Model,
    pairs: Pairs,
    count: int = 512,
    readers: SiteReader | Sequence[SiteReader] = (),
    *,
    batch: int = 32,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Return every metric (docs/definitions.md) of a model on pairs, with 95 % bootstrap intervals.

    Args:
        model: The model to measure.
        pairs: Pairs with the truth. For pairs with cameras but without the depth of both views, the
            pose is found by PnP from the predicted pointmaps, and errors that need depth are
            absent.
        count: Number of pairs: a sample, see `prob3r.scenes.sampling.sample`.
        readers: Probe banks and lenses whose sites are measured too, each of a different kind.
        batch: Pairs in a batch.
        seed: Seed of the sample, of the random reference and of the bootstrap.
        report: Called with the number of pairs done and the number of all pairs.

    Returns:
        A row for each source (`model`, `mean_pose`, `identity_pose`, `shuffled`, `random`, and
        kinds of readers), stratum, site, view and metric: the median (for `auc@...` the area), its
        interval, and the number of pairs. `attrs` says how the pairs were chosen (`sample`), what
        they are called (`names`), where the other views 1 came from (`shuffled`), what is absent
        without depth (`no depth`), and the `precision` that the model ran in.

    Raises:
        Prob3rError: The pairs have no truth to measure against, two readers are of one kind, or one
            is of another model.
    """
    measured = _Measured()
    device = next(model.parameters()).device
    untrained = random(model, seed).to(device)
    sources = _sources(model, [readers] if isinstance(readers, SiteReader) else readers)
    pairs, done = sample(pairs, count, seed), 0
    backbones = (backbone for backbone, _ in sources.values())
    with torch.no_grad(), reusing_views(pairs, model, untrained, *backbones):
        for pair in batches(pairs, len(pairs), batch):
            _measure(measured, model, untrained, pair.to(device), sources)
            measured.names += pair.names
            done += len(pair)
            report(done, len(pairs))
    table = _table(measured, torch.Generator().manual_seed(seed))
    table.attrs["sample"] = describe(pairs)
    table.attrs["names"] = measured.names
    if measured.without_depth:
        table.attrs["no depth"] = _without_depth(table, measured.without_depth)
    if predicts_pointmaps(model):
        table.attrs[SHUFFLED] = describe_controls(measured.controls)
    table.attrs["precision"] = running_precision(model)
    table.attrs |= {name: reader.origin for name, (_, reader) in sources.items() if reader.origin}
    return table


_Sources = Mapping[str, tuple[Model, SiteReader]]


def _sources(model: Model, readers: Sequence[SiteReader]) -> _Sources:
    """Return each reader and the model that it reads, by the source of its rows."""
    names = ["model" if reader.kind == "mlp" else reader.kind for reader in readers]
    for name, reader in zip(names, readers, strict=True):
        if names.count(name) > 1:
            raise Prob3rError(f"Two of the probes are '{reader.kind}'; give one of a kind.")
    found = zip(names, readers, strict=True)
    return {name: (backbone_of(reader, model), reader) for name, reader in found}


def _measure(
    measured: _Measured,
    model: Model,
    untrained: Model,
    pair: Pair,
    sources: _Sources,
) -> None:
    if not pair.has_poses:
        raise Prob3rError(
            f"{', '.join(pair.names)}: there is nothing to measure against; evaluate needs the "
            "cameras of both views at least."
        )
    images1, images2 = pair.view1.image, pair.view2.image
    errors = _errors if pair.has_truth else _errors_by_pnp
    measured.without_depth += 0 if pair.has_truth else len(pair)
    own = [reader for backbone, reader in sources.values() if backbone is model]
    recorded = trace(model, pair, [site for reader in own for site in reader.sites])
    assert recorded.output is not None
    # The overlap is known only for pairs with the full truth.
    rows = dict(zip(("easy", "hard"), strata(pair), strict=True)) if pair.has_truth else {}
    control = shuffled(pair)
    measured.controls.update(control.counts)
    if predicts_pointmaps(model):
        measured.add("model", HEAD, errors(recorded.output.points, pair), rows)
        measured.add("random", HEAD, errors(untrained(images1, images2).points, pair), rows)
        if control.known.any():
            other = errors(model(control.pair.view1.image, images2).points, pair)
            with_control = {name: values[control.known] for name, values in other.items()}
            strata_of = {name: mask[control.known] for name, mask in rows.items()}
            measured.add(SHUFFLED, HEAD, with_control, strata_of)
    if not pair.has_truth:
        return
    mean_pose = _mean_pose(MEAN_POSE_PAIRS).to(images1.device).expand(len(pair), 4, 4)
    placed = transform(pair.view2.points, mean_pose)
    measured.add("mean_pose", HEAD, errors((pair.view1.points, placed), pair), rows)
    for source, (backbone, reader) in sources.items():
        run = recorded if reader in own else trace(backbone, pair, reader.sites, output=False)
        for site1, site2 in twins(reader.sites):
            points = reader.decode(run[site1]).points, reader.decode(run[site2]).points
            measured.add(source, site2, errors(points, pair), rows)
    # This comes last, so that it does not change the random numbers of the other intervals.
    measured.add("identity_pose", HEAD, _identity_errors(pair), rows)
    if recorded.output.descriptors is not None:
        measured.add("descriptors", HEAD, _match_errors(recorded.output.descriptors, pair), rows)


def _without_depth(table: pd.DataFrame, pairs: int) -> str:
    """Return in words what is not measured for pairs without the depth of both views."""
    known = set(zip(table.metric, table.view, strict=True))
    absent = [words for words, measured in NEED_DEPTH.items() if measured not in known]
    lacking = f"; {', '.join(absent)} need it and are absent" if absent else ""
    return f"{pairs} pairs lack the depth of a view, so their poses are found by PnP{lacking}"


def _errors(points: tuple[Tensor, ...], pair: Pair) -> dict[str, Tensor]:
    """Return every metric of predicted pointmaps against the full truth."""
    return _with_areas(pair.errors_of(points))


def _with_areas(errors: PoseAndShape) -> dict[str, Tensor]:
    """Return errors by name, and the errors from which the areas under recall curves follow."""
    worst = pose_error(errors.rotation_error, errors.translation_error)
    return errors._asdict() | {f"auc@{degrees}": worst for degrees in AUC_DEGREES}


def _identity_errors(pair: Pair) -> dict[str, Tensor]:
    """Return every metric of view 2's true shape with camera 2 where camera 1 is."""
    errors = pair.errors_of((pair.view1.points, pair.view2.points))
    # The fitted translation is zero up to rounding, so its direction has no meaning.
    heading = errors.translation_error
    heading = heading.where(heading.isnan(), 180.0)
    return _with_areas(errors._replace(translation_error=heading))


def _errors_by_pnp(points: tuple[Tensor, ...], pair: Pair) -> dict[str, Tensor]:
    """Return the errors that do not need the depth of view 2, or of both views.

    The pose is found by PnP from the predicted pointmaps. View 1's pointmap error needs the depth
    of view 1.
    """
    true = pair.view2_to_view1
    found = torch.stack([_pose(points, pair, row) for row in range(len(pair))])
    errors, depth = {}, None
    if pair.view1.depth is not None and pair.view1.intrinsics is not None:
        known = pair.view1.known
        (predicted1,) = normalise(points[:1], [known])
        (true1,) = normalise([pair.view1.points], [known])
        depth = mean_depth([pair.view1.points], [known])
        errors["pointmap_error1"] = pointmap_error(predicted1, true1, known)
    return errors | _pose_errors(found, true, depth)


def _pose_errors(
    found: Float[Tensor, "b 4 4"], true: Float[Tensor, "b 4 4"], depth: Tensor | None
) -> dict[str, Tensor]:
    """Return the errors of poses; a pose of NaN was not found and is wrong by 180 degrees."""
    return {
        "rotation_error": rotation_error(found[:, :3, :3], true[:, :3, :3]).nan_to_num(180.0),
        # A zero translation has no direction: 180 degrees too. A short baseline stays NaN.
        "translation_error": translation_error(
            found[:, :3, 3].nan_to_num(0.0), true[:, :3, 3], depth
        ),
    }


def _match_errors(descriptors: Sequence[Tensor], pair: Pair) -> dict[str, Tensor]:
    """Return the share of reciprocal matches that are right, and the errors of their pose."""
    poses, shares = [], []
    for row in range(len(pair)):
        single = pair[row].to("cpu")
        first, second = (described[row].float().cpu() for described in descriptors)
        pixels1, pixels2 = reciprocal_matches(second, first, MATCH_STEP)
        pose, _ = pose_from_matches(single, pixels1, pixels2)
        poses.append(torch.full((4, 4), torch.nan) if pose is None else pose.float())
        shares.append(right_matches(pixels1, pixels2, single).float())
    true = pair.view2_to_view1
    errors = _pose_errors(
        torch.stack(poses).to(true), true, mean_depth([pair.view1.points], [pair.view1.known])
    )
    worst = pose_error(errors["rotation_error"], errors["translation_error"])
    areas = {f"auc@{degrees}": worst for degrees in AUC_DEGREES}
    return errors | areas | {"right_matches": torch.stack(shares).to(true)}


def _pose(points: tuple[Tensor, ...], pair: Pair, row: int) -> Float[Tensor, "4 4"]:
    """Return camera 2's pose by PnP from predicted pointmaps; NaN if none is found."""
    views = pair[row].view1, pair[row].view2
    matrices = intrinsics_from_pointmap(
        points[0][row : row + 1], [view.size for view in views], [v.intrinsics for v in views]
    )
    pose = pose_of_pointmap(points[1][row], matrices[1][0])
    return points[1].new_full((4, 4), torch.nan) if pose is None else pose.cam_to_world


@cache
def _mean_pose(pairs: int) -> Float[Tensor, "4 4"]:
    """Return the mean pose of camera 2 in camera 1's frame over training rooms, in metres.

    The rotation is the chordal mean: the one nearest to the mean of the matrices.
    """
    _, poses = Rooms("train").cameras(range(pairs))
    mean = relative_pose(poses[:, 0], poses[:, 1]).mean(0)
    mean[:3, :3] = roma.special_procrustes(mean[:3, :3])
    return mean


def _table(measured: _Measured, generator: torch.Generator) -> pd.DataFrame:
    """Return the tidy table of what was measured."""
    rows = []
    for (source, site, metric, stratum), parts in measured.values.items():
        values = torch.cat(parts)
        statistic = (
            partial(auc, threshold=float(metric.removeprefix("auc@")))
            if metric.startswith("auc@")
            else median
        )
        value, low, high = bootstrap_interval(values, statistic, generator=generator)
        view = 1 if metric == "pointmap_error1" else 2
        rows.append(
            {
                "source": source,
                "stratum": stratum,
                "site": site if view == 2 or site == HEAD else str(Site.parse(site).of(1)),
                "view": view,
                "metric": _VIEWLESS.get(metric, metric),
                "value": value,
                "low": low,
                "high": high,
                "pairs": int((~values.isnan()).sum()),
            }
        )
    return pd.DataFrame(rows)


def about_pairs(model: Model, name: str, data: str, table: pd.DataFrame) -> dict[str, Any]:
    """Return the provenance of an evaluation, for its result file; see `provenance`.

    Args:
        model: The measured model.
        name: The model's name.
        data: The name of the pairs.
        table: The table of `evaluate`.
    """
    protocol = {
        "name": "pairs",
        "data": data,
        "alignment": "both views normalised together; a robust similarity gives view 2's pose",
    }
    frames = frames_of(table.attrs["names"], table.attrs["sample"])
    return provenance(model, name, data, protocol, frames)


def write_rows(table: pd.DataFrame, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a table as JSON, completely or not at all: its attributes, and a list of its `rows`.

    Args:
        table: The table; only attributes that are strings are written.
        path: The file.
        about: Other content of the file, written first.

    Raises:
        Prob3rError: The file cannot be written.
    """
    attributes = {str(name): words for name, words in table.attrs.items() if isinstance(words, str)}
    write_result({**(about or {}), **attributes, "rows": table.to_dict("records")}, path)
