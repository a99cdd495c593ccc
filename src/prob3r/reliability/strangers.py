"""The probability that a view is a stranger, that is, shows another scene than the other views.

Every view except view 1 has three signals, which `measures.belonging` defines: from the attention
between views in the last block, from the most similar patches after that block, and from the `fit`
of `measures.views` (0 if a view shares nothing with the others). A calibration is a logistic
regression of *this view is a stranger* on the signals. It is fitted on scenes of which half have a
stranger. Its ranking and its calibration error are measured by cross-fitting. It belongs to one
model. The signals do not depend on the number of views. The base rate does: it is that of the
fitted scenes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.io.files import to_json
from prob3r.measures.attention import AttentionRecords
from prob3r.measures.belonging import ATTENTION, BEST_PATCHES, doubts, of_others, received
from prob3r.measures.reconstruction import EstimatedCameras
from prob3r.measures.views import ViewRelations
from prob3r.models import Model, fingerprint, shipped_file
from prob3r.models.protocol import needs_pointmaps
from prob3r.reliability.files import (
    bins_from_json,
    fit_from_json,
    interval_from_json,
    read_calibration,
    write_calibration,
)
from prob3r.reliability.prediction import (
    FEWEST,
    Bin,
    Logistic,
    auroc_interval,
    bin_of,
    calibration_bins,
    cross_fitted,
    fit_logistic,
    measurable,
)
from prob3r.runs.trace import trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Scenes, batches, describe
from prob3r.scenes.strangers import with_strangers
from prob3r.scenes.views import Views

FIT = "fit"
SIGNALS = (ATTENTION, BEST_PATCHES, FIT)
"""The names of the signals, column by column."""

FEWEST_VIEWS = 3
"""Fewest views of a scene. With two views, either could be the stranger."""

VERSION = 1
_FILE = "strangers.json"


@dataclass(frozen=True)
class Belonging:
    """How well one view fits the other views of its scene in one run.

    Attributes:
        view: Number of the view.
        attention: Attention that the view receives from the other views in the last block, as a
            multiple of the median over the other views except view 1.
        similarity: Mean cosine similarity of its patches with the most similar patches of the other
            views.
        usual_similarity: Median of that over the other views except view 1.
        fit: How well its points fit those of the other views; see `ViewRelations`.
        probability: Probability that it is a stranger; None without a calibration.
        beyond: Whether a signal is outside the range of the calibration's views.
        held_out: The held-out views with a similar probability; None without a calibration.
    """

    view: int
    attention: float
    similarity: float
    usual_similarity: float
    fit: float
    probability: float | None = None
    beyond: bool = False
    held_out: Bin | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as values that fit JSON."""
        held_out = None if self.held_out is None else self.held_out._asdict()
        return dict(to_json(asdict(self) | {"held_out": held_out}))


def signals(relations: ViewRelations) -> Float[Tensor, "v s"]:
    """Return the signals of every view, one column for each of `SIGNALS`; NaN for view 1."""
    attention = received(torch.tensor(relations.attention[-1]))
    alike = of_others(torch.tensor(relations.similarity))
    fit = torch.tensor(relations.fit).nan_to_num(0)
    values = {ATTENTION: attention, BEST_PATCHES: alike, FIT: fit}
    return torch.stack([doubts(name, values[name]) for name in SIGNALS], 1).double()


def belongings(
    relations: ViewRelations, calibration: "StrangerCalibration | None" = None
) -> list[Belonging]:
    """Return the belonging of all views except view 1; nothing for fewer than three views.

    Args:
        relations: The relations of the views in one run.
        calibration: Gives the probabilities; without it they are None.
    """
    rows = signals(relations)
    if len(rows) < FEWEST_VIEWS:
        return []
    alike = of_others(torch.tensor(relations.similarity)).double()
    found = []
    for view in range(2, len(rows) + 1):
        row = rows[view - 1]
        about = Belonging(
            view=view,
            attention=float((-row[0]).exp()),
            similarity=float(alike[view - 1]),
            usual_similarity=float(alike[view - 1] + row[1]),
            fit=relations.fit[view - 1],
        )
        found.append(about if calibration is None else calibration.judge(about, row))
    return found


@dataclass(frozen=True)
class StrangerCalibration:
    """A logistic regression of *this view is a stranger*, and its quality on held-out views.

    Attributes:
        model: Name of the model.
        backbone: Fingerprint of the model's weights.
        data: Name of the scenes.
        scenes: Number of scenes.
        views: Views of each scene.
        strangers: Number of views that were strangers.
        fit: The logistic regression on all views except view 1; its columns are those of `signals`.
        auroc: AUROC of the cross-fitted probabilities, with its 95 % bootstrap interval over
            scenes.
        bins: Reliability diagram of the cross-fitted probabilities.
        sample: How the scenes were chosen, in words.
    """

    model: str
    backbone: str
    data: str
    scenes: int
    views: int
    strangers: int
    fit: Logistic
    auroc: Interval
    bins: list[Bin]
    sample: str = ""

    @classmethod
    def of(
        cls,
        model: Model,
        scenes: Scenes[Views],
        count: int,
        *,
        model_name: str,
        data: str,
        batch: int = 8,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> "StrangerCalibration":
        """Return a calibration on a sample of scenes, of which half get a stranger.

        Args:
            model: The model.
            scenes: Scenes of three or more views. They must not be the scenes of a later test. Only
                their photographs are used.
            count: Size of the sample.
            model_name: Name of the model, for the file.
            data: Name of the scenes, for the file.
            batch: Scenes in a batch. A stranger comes from another scene of the same batch.
            report: Called with the number of scenes done and the number to do.

        Raises:
            Prob3rError: The model predicts no pointmaps, the scenes have fewer than three views,
                there are no scenes, or there are too few strangers.
        """
        needs_pointmaps(model, "A calibration of strangers")
        device = next(model.parameters()).device
        drawn = sample(scenes, count)
        rows, outcomes, of_scene, done, views = [], [], [], 0, 0
        for several in batches(drawn, len(drawn), batch):
            views = several.count
            if views < FEWEST_VIEWS:
                raise Prob3rError(
                    f"These scenes have {views} views; to tell a stranger takes {FEWEST_VIEWS}."
                )
            mixed = with_strangers(several.to(device))
            for row in range(len(several)):
                rows.append(signals(relations_of(model, mixed.views[row]))[1:])
                outcomes.append(mixed.stranger[row, 1:])
                of_scene.append(torch.full((views - 1,), done))
                done += 1
                report(done, len(drawn))
        if not rows:
            raise Prob3rError("There are no scenes to calibrate on; give at least one.")
        x, outcome, groups = torch.cat(rows), torch.cat(outcomes), torch.cat(of_scene)
        found = int(outcome.sum())
        if not measurable(outcome):
            raise Prob3rError(
                f"{found} of {len(outcome)} views of {data} are strangers; a calibration needs at "
                f"least {FEWEST}, so give more scenes, and known ones, several a batch."
            )
        stated = cross_fitted(x, outcome)
        return cls(
            model=model_name,
            backbone=fingerprint(model),
            data=data,
            scenes=done,
            views=views,
            strangers=found,
            fit=fit_logistic(x, outcome),
            auroc=auroc_interval(stated, outcome, groups),
            bins=calibration_bins(stated, outcome),
            sample=describe(drawn),
        )

    def check(self, model: Model) -> None:
        """Raise Prob3rError if this calibration is not for this model."""
        given = fingerprint(model)
        if self.backbone != given:
            raise Prob3rError(
                f"This calibration of strangers was made for the model {self.backbone}, and this "
                f"one is {given}; make one for it with `prob3r train strangers`."
            )

    def judge(self, about: Belonging, row: Float[Tensor, " s"]) -> Belonging:
        """Return the belonging of a view with the probability that the view is a stranger.

        Args:
            about: The belonging of the view.
            row: The signals of the view.
        """
        probability = self.fit.probability(row[None])
        return replace(
            about,
            probability=float(probability),
            beyond=bool(self.fit.beyond(row[None]).any()),
            held_out=self.bins[int(bin_of(probability, len(self.bins)))],
        )

    def save(self, path: Path) -> None:
        """Write the calibration as JSON; raise Prob3rError if the file cannot be written."""
        write_calibration(self, SIGNALS, VERSION, path)

    @classmethod
    def read(cls, path: Path) -> "StrangerCalibration":
        """Read a calibration; raise Prob3rError if the file does not hold one."""
        return read_calibration(path, cls._parsed, "prob3r train strangers")

    @classmethod
    def shipped(cls, name: str, model: Model) -> "StrangerCalibration | None":
        """Return the shipped calibration of a model by name; None if it is for other weights."""
        path = shipped_file(Path(name).name, _FILE)
        if path is None:
            return None
        found = cls.read(path)
        return found if found.backbone == fingerprint(model) else None

    @classmethod
    def _parsed(cls, content: dict[str, Any]) -> "StrangerCalibration":
        if content["version"] > VERSION:
            raise KeyError("version")
        return cls(
            model=str(content["model"]),
            backbone=str(content["backbone"]),
            data=str(content["data"]),
            scenes=int(content["scenes"]),
            views=int(content["views"]),
            strangers=int(content["strangers"]),
            sample=str(content["sample"]),
            fit=fit_from_json(content, SIGNALS),
            auroc=interval_from_json(content["auroc"]),
            bins=bins_from_json(content["bins"]),
        )


@torch.no_grad()
def relations_of(model: Model, views: Views) -> ViewRelations:
    """Run a model over one scene and return the relations of its views."""
    records = AttentionRecords(model, views)
    run = trace(model, views, records.sites(["by_view"]), reductions=records.reductions)
    assert run.output is not None
    points = run.output.points
    cameras = EstimatedCameras.of(views, points, run.output.confidence[0])
    return ViewRelations.of_run(records, run, points, cameras, model.config.patch)
