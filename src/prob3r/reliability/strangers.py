"""The chance that a view is of another scene, from attention, features and geometry of one run.

Three signals of every view but the first, each a doubt as `measures.belonging` defines it: by the
attention of the last block between views, by the best patches after it, and by the `fit` of
`measures.views` (0 where a view shares nothing with the others). A calibration is a logistic
regression of *this view is a stranger* on them, over scenes of which half have a stranger. How well
it ranks and how far it can be believed is measured by cross-fitting. It belongs to one model; the
signals do not depend on the number of views, but the base rate does: it is that of the scenes that
it was fitted on.
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
from prob3r.measures.reconstruction import Cameras
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
"""Of two views nobody can tell which one is the stranger."""

VERSION = 1
_FILE = "strangers.json"


@dataclass(frozen=True)
class Belonging:
    """How much one view belongs to its scene, by one run.

    Attributes:
        view: Number of the view.
        attention: What it gets of the other views' attention in the last block, as a multiple of
            the median of the other views but the first.
        similarity: Mean cosine of its patches with the nearest patches of the other views.
        usual_similarity: The median of that over the other views but the first.
        fit: How well its points fit the others; see `ViewRelations`.
        probability: That it is of another scene; None without a calibration.
        beyond: Whether a signal lies outside of all that the calibration saw.
        held_out: The held-out views that were given about the same probability; None without a
            calibration.
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
        """Return what the attributes say, as JSON can hold it."""
        held_out = None if self.held_out is None else self.held_out._asdict()
        return dict(to_json(asdict(self) | {"held_out": held_out}))


def signals(relations: ViewRelations) -> Float[Tensor, "v s"]:
    """Return the signals of every view, column by column; NaN for view 1."""
    attention = received(torch.tensor(relations.attention[-1]))
    alike = of_others(torch.tensor(relations.similarity))
    fit = torch.tensor(relations.fit).nan_to_num(0)
    values = {ATTENTION: attention, BEST_PATCHES: alike, FIT: fit}
    return torch.stack([doubts(name, values[name]) for name in SIGNALS], 1).double()


def belongings(
    relations: ViewRelations, calibration: "StrangerCalibration | None" = None
) -> list[Belonging]:
    """Return how much each view but the first belongs; nothing for less than three views."""
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
    """A fit of *this view is a stranger* on its signals, and how good it is on held-out views.

    Attributes:
        model: Name of the model.
        backbone: Fingerprint of its weights.
        data: Name of the scenes.
        scenes: How many there were.
        views: How many views each had.
        strangers: How many of the views were strangers.
        fit: On all views but the first, of the columns of `signals`.
        auroc: Of the cross-fitted probabilities, with its 95 % bootstrap interval over scenes.
        bins: Of the cross-fitted probabilities.
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
            scenes: Of three views or more; other than those that the result is to be tested on.
                Nothing but their photographs is used.
            count: How many of them.
            model_name: What to call the model.
            data: What to call the scenes.
            batch: Scenes at a time; a stranger comes from another scene of its batch.
            report: Called with the number of scenes done and the number to do.

        Raises:
            Prob3rError: The model predicts no pointmaps, the scenes have less than three views, or
                there are too few strangers.
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
        """Raise Prob3rError if this is not the calibration of this model."""
        given = fingerprint(model)
        if self.backbone != given:
            raise Prob3rError(
                f"This calibration of strangers was made for the model {self.backbone}, and this "
                f"one is {given}; make one for it with `prob3r train strangers`."
            )

    def judge(self, about: Belonging, row: Float[Tensor, " s"]) -> Belonging:
        """Return what is known of a view, with the probability that it is a stranger.

        Args:
            about: What is known of it.
            row: Its signals.
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
        """Read a calibration; raise Prob3rError if the file holds none."""
        return read_calibration(path, cls._parsed, "prob3r train strangers")

    @classmethod
    def shipped(cls, name: str, model: Model) -> "StrangerCalibration | None":
        """Return what is shipped for a model of this name, if it fits it."""
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
    """Return how the views of one scene relate in one run."""
    records = AttentionRecords(model, views)
    run = trace(model, views, records.sites(["by_view"]), reductions=records.reductions)
    assert run.output is not None
    points = run.output.points
    cameras = Cameras.of(views, points, run.output.confidence[0])
    return ViewRelations.of_run(records, run, points, cameras, model.config.patch)
