"""The base class of studies: a measurement of each pair or scene, and findings from all of them.

To write a study, copy a file such as `refinement.py`. State the question and the rule for its
verdict in the docstring, measure one batch in `measure`, return the verdicts in `findings`, and
draw the numbers in `figures`. `conduct` does the rest: strata, progress, resuming, files.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import pandas as pd
import torch
from typing_extensions import TypeVar

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, to_json, writing_to
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.measures.strata import strata
from prob3r.models import Model, fingerprint
from prob3r.models.protocol import predicts_pointmaps, trunk
from prob3r.models.sites import BETWEEN_VIEWS, Site
from prob3r.probes import SiteReader
from prob3r.runs.encoded import reusing_views
from prob3r.runs.precision import running_precision
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Scenes, batches, describe, share_views
from prob3r.scenes.views import Pair, Views
from prob3r.studies.framework.parts import read_part, write_part
from prob3r.studies.framework.results import frames_of, version
from prob3r.studies.framework.verdict import Finding
from prob3r.training.processes import Processes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Seen = TypeVar("Seen", bound=Views, default=Pair)
"""The type of a batch: pairs, or scenes of more views."""

MODEL, POSITIVE = "model", "mini-vggt"
"""Sources of rows: the model under test, or the positive control."""

BETWEEN, WITHIN = (BETWEEN_VIEWS,), (BETWEEN_VIEWS, ("self_attn",))
"""Values of `Study.attention`: attention between views, or both between and within views."""

OWN_PROBES = ("mlp", "features", "ridge", "linear")
"""Kinds of probes of a model itself, in the order of preference of studies."""


CONTROLS = ("random", "encoder")
"""Kinds of probes that are controls."""

NOT_RUN = "not-run.json"
"""The file that says what a model lacks for a study that was not run."""


class LackingError(Prob3rError):
    """A model lacks what a study needs."""


@dataclass(frozen=True)
class ModelUnderTest:
    """The model that a study tests, with its probes and its controls.

    Attributes:
        model: The model.
        name: The model's name.
        banks: Probes by kind: probes of the model, such as `ridge`, and the controls `random` and
            `encoder`.
        untrained: The backbone with random weights that the `random` probes belong to; None without
            such probes.
        references: Other models to compare with, by name: `mini-vggt`, the positive control that
            carries an explicit pose; variants; and checkpoints of the model's own training.
    """

    model: Model
    name: str
    banks: Mapping[str, SiteReader] = field(default_factory=dict)
    untrained: Model | None = None
    references: Mapping[str, Model] = field(default_factory=dict)

    def bank(self, *kinds: str) -> SiteReader:
        """Return the probes of the first kind that exists; the default kinds are `OWN_PROBES`.

        Raises:
            LackingError: There are no probes of any of these kinds.
        """
        found = [self.banks[kind] for kind in kinds or OWN_PROBES if kind in self.banks]
        if not found:
            kind = kinds[0] if kinds else "ridge"
            raise LackingError(
                f"This study needs '{kind}' probes of {self.name}; fit them with `prob3r probes "
                f"fit --kind {kind}`."
            )
        return found[0]

    @property
    def positive(self) -> Model | None:
        """The positive control `mini-vggt`, which can be the model under test itself."""
        return self.model if self.name == POSITIVE else self.references.get(POSITIVE)

    @property
    def origins(self) -> dict[str, str]:
        """The target and the data of the fit of each kind of probes, if they are known."""
        return {kind: bank.origin for kind, bank in self.banks.items() if bank.origin}


def as_shown(source: str, model: Model, pair: Pair) -> Pair:
    """Return pairs as a source's model sees them: the positive control sees its own size."""
    return pair.resized_for(model) if source == POSITIVE else pair


@dataclass(frozen=True)
class Result:
    """The result of a study, for one model and data set.

    Attributes:
        study: The study's name.
        model: The model's name.
        data: The name of the pairs or scenes.
        findings: The findings.
        table: All measurements, one in each row.
    """

    study: str
    model: str
    data: str
    findings: list[Finding]
    table: pd.DataFrame


class Study(ABC, Generic[Seen]):
    """A question about a model, tested on many pairs; every class with a `name` is registered.

    A study of scenes of more views is a `Study[Views]` that states their number in `views`.

    Attributes:
        registry: All study classes by name.
        name: The name of the study and of its folder; one word.
        title: The subject, in a few words.
        place: Position on the page of findings; by default after all studies that have a place.
        data: Name of the data that the study needs; None if any data will do.
        views: Number of views of a scene; for a model that takes fewer, as many as it takes.
        fewest: The smallest number of views for which the question makes sense.
        batch: Pairs or scenes in a batch.
        most: Largest useful number of pairs; None is no limit.
        probes: Whether the study reads sites with probes.
        output: Whether the study measures the model's own pointmaps.
        attention: Groups of kinds of attention; the trunk must have one kind of each group.
        controls: Names of the references that serve as controls.
    """

    registry: ClassVar[dict[str, type["Study[Any]"]]] = {}

    name: ClassVar[str]
    title: ClassVar[str]
    place: ClassVar[float] = inf
    data: ClassVar[str | None] = None
    views: int = 2
    fewest: ClassVar[int] = 2
    batch: ClassVar[int] = 16
    most: ClassVar[int | None] = None
    probes: ClassVar[bool] = False
    output: ClassVar[bool] = False
    attention: ClassVar[Sequence[Sequence[str]]] = ()
    controls: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Register the study by its name."""
        if "name" in vars(cls):
            Study.registry[cls.name] = cls

    def choose_views(self, model: Model, asked: int | None = None) -> None:
        """Set the number of views of a scene: the given number, or what the model takes.

        A study of pairs keeps two views.

        Args:
            model: The model under test.
            asked: The number of views; None keeps the default, within what the model takes.

        Raises:
            Prob3rError: The study needs more views than `asked`.
        """
        if asked is not None and self.views > 2:
            if asked < self.fewest:
                raise Prob3rError(
                    f"The study '{self.name}' needs {self.fewest} views or more, not {asked}."
                )
            self.views = asked
        elif model.most_views is not None:
            self.views = max(self.fewest, min(self.views, model.most_views))

    def check(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if the model lacks what the study needs."""
        most = tested.model.most_views
        if most is not None and most < max(self.fewest, self.views):
            raise LackingError(
                f"The study '{self.name}' shows a model {max(self.fewest, self.views)} views, and "
                f"{tested.name} takes {most} at most."
            )
        sites = [Site.parse(name) for name in tested.model.attention_sites(self.views)]
        stack = trunk(tested.model).name if self.attention else ""
        for group in self.attention:
            for view in range(1, self.views + 1):
                found = (s for s in sites if (s.stack, s.view) == (stack, view))
                if not any(site.sublayer in group for site in found):
                    words = " or ".join(SUBLAYER_WORDS[kind] for kind in group)
                    raise LackingError(
                        f"The study '{self.name}' needs {words} of view {view}, and {tested.name} "
                        "shows none."
                    )
        if self.output and not predicts_pointmaps(tested.model):
            raise LackingError(
                f"The study '{self.name}' needs pointmaps, and {tested.name} predicts none."
            )
        if self.probes:
            tested.bank()

    def missing_controls(self, tested: ModelUnderTest) -> list[str]:
        """Return the names of the controls that are missing."""
        return [name for name in self.controls if name not in {*tested.references, tested.name}]

    def rests_on(self, tested: ModelUnderTest) -> dict[str, object]:
        """Return what else the answers rest on, as JSON can hold it; by default nothing.

        It stands in `study.json` and in `findings.json`. A folder that was started with anything
        else is refused.
        """
        return {}

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Seen]) -> None:
        """Compute what is needed before the first batch; the same pairs give the same result.

        Args:
            tested: The model under test.
            pairs: All pairs or scenes from which the sample is drawn.
        """

    @abstractmethod
    def measure(self, tested: ModelUnderTest, pair: Seen, /) -> pd.DataFrame:
        """Return the measurements of a batch, one in each row.

        The column `pair` holds the index of the pair in the batch, from 0, in every row.
        """

    @abstractmethod
    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the findings from all measurements, by the rules in the study's docstring.

        Args:
            table: The rows of all batches, with `pair` counted over all of them, and the columns
                `easy` and `hard` for the stratum of the pair.
        """

    @abstractmethod
    def figures(self, table: pd.DataFrame) -> dict[str, "Figure"]:
        """Return the figures by name."""


def conduct(
    study: Study[Seen],
    tested: ModelUnderTest,
    pairs: Scenes[Seen],
    count: int,
    folder: Path,
    data: str,
    report: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes | None = None,
) -> Result:
    """Run a study: measure, find the verdicts and draw; or continue a study that was interrupted.

    Several processes share the batches, and the first process writes the results.

    Args:
        study: The study.
        tested: The model under test.
        pairs: The pairs or scenes, with the full truth.
        count: Number of pairs: a sample, see `prob3r.scenes.sampling.sample`.
        folder: The folder for `STUDY/table.parquet` and `.csv`, `findings.json` and the figures.
        data: The name of the pairs.
        report: Called with the number of pairs done and the number of all pairs.
        processes: The processes that share the work; by default only this one.

    Raises:
        LackingError: The model lacks what the study needs.
        Prob3rError: The folder holds a study of something else, or cannot be written.
    """
    study.check(tested)
    processes = processes or Processes()
    home = folder / study.name
    parts = home / "parts"
    make_folder(parts)
    drawn = sample(pairs, min(count, study.most or count))
    about: dict[str, object] = {
        "study": study.name,
        "model": tested.name,
        "weights": fingerprint(tested.model),
        "data": data,
        "pairs": len(drawn),
        "sample": describe(drawn),
        "batch": study.batch,
        "precision": running_precision(tested.model),
        "relatives": {name: fingerprint(model) for name, model in tested.references.items()},
    }
    if study.views != 2:
        about["views"] = study.views
    if tested.origins:
        about["probes"] = tested.origins
    about |= study.rests_on(tested)
    # Older folders do not name their sample: they hold the first pairs, which for rooms are the
    # same. Folders that do not name their precision ran in float32.
    unnamed = {} if share_views(drawn) else {"sample": about["sample"]}
    _claim(home / "study.json", about, unnamed | {"precision": "float32"})
    study.prepare(tested, pairs)
    paths, names, done = [], list[str](), 0
    backbones = [tested.model] if tested.untrained is None else [tested.model, tested.untrained]
    with reusing_views(drawn, *backbones):
        for number, pair in enumerate(batches(drawn, len(drawn), study.batch)):
            paths.append(parts / f"{number:05d}.parquet")
            if number % processes.count == processes.rank and not paths[-1].exists():
                part = _measured(study, tested, pair, done)
                write_part(part, paths[-1])
            names += pair.names
            done += len(pair)
            report(done, len(drawn))
    processes.wait()
    table = pd.concat([read_part(path) for path in paths], ignore_index=True)
    result = Result(study.name, tested.name, data, study.findings(table), table)
    if processes.first:
        (home / NOT_RUN).unlink(missing_ok=True)
        if missing := study.missing_controls(tested):
            about["missing"] = missing
        rests_on = {
            "protocol": {"name": f"study {study.name}", "data": data},
            "frames": frames_of(names, describe(drawn)),
            "prob3r": version(),
        }
        _write(result, study, home, about | rests_on)
    return result


def leave_out(study: Study[Any], why: str, folder: Path) -> None:
    """Record that a study was not run, and the reason, for the page of findings.

    Raises:
        Prob3rError: The folder cannot be written.
    """
    home = folder / study.name
    make_folder(home)
    with writing_to(home / NOT_RUN) as path:
        said = {"title": study.title, "why": why}
        path.write_text(json.dumps(said, indent=1), encoding="utf-8")


def _claim(path: Path, about: dict[str, object], unnamed: Mapping[str, object]) -> None:
    """Write the settings of a folder, or raise Prob3rError if it has other settings.

    Args:
        path: The file with the settings.
        about: The settings of this run.
        unnamed: Values for settings that an older file does not have.
    """
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Prob3rError(f"{path} is damaged; delete it or give a new folder.") from error
        if isinstance(found, dict):
            found = {**unnamed, **found}
        if found != about:
            known = found.keys() if isinstance(found, dict) else ()
            differs = next((k for k in about if k not in known or found[k] != about[k]), "study")
            raise Prob3rError(
                f"{path.parent} holds a study that differs in its {differs}; give a new folder."
            )
        return
    with writing_to(path) as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _measured(study: Study[Seen], tested: ModelUnderTest, pair: Seen, first: int) -> pd.DataFrame:
    """Return the rows of a batch, with pairs counted over all batches, and with their strata."""
    pair = pair.to(next(tested.model.parameters()).device)
    with torch.no_grad():
        table = study.measure(tested, pair)
        easy, hard = (mask.cpu().numpy() for mask in strata(pair))
    rows = table.pair.to_numpy()
    return table.assign(pair=rows + first, easy=easy[rows], hard=hard[rows])


def _write(result: Result, study: Study[Any], home: Path, about: dict[str, object]) -> None:
    with writing_to(home / "table.parquet") as path:
        result.table.to_parquet(path)
    with writing_to(home / "table.csv") as path:
        result.table.to_csv(path, index=False, float_format="%.6g")
    answers = about | {"title": study.title, "findings": [asdict(f) for f in result.findings]}
    with writing_to(home / "findings.json") as path:
        path.write_text(json.dumps(to_json(answers), indent=1, allow_nan=False), encoding="utf-8")
    for name, figure in study.figures(result.table).items():
        for suffix in ("png", "pdf"):
            with writing_to(home / f"{name}.{suffix}") as path:
                figure.savefig(path, dpi=200)


def load_study(path: Path) -> type[Study[Any]]:
    """Run a Python file that defines one study, and return the study.

    Raises:
        Prob3rError: There is no such file, it cannot be run, or it does not define one study.
    """
    known = set(Study.registry.values())
    if not path.is_file():
        raise Prob3rError(f"There is no file {path}; give a Python file that defines a study.")
    try:
        run_path(str(path), run_name="a_study")
    except Exception as error:  # a user's file may fail in any way
        raise Prob3rError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    found = [study for study in Study.registry.values() if study not in known]
    if len(found) != 1:
        raise Prob3rError(
            f"{path} defines {len(found)} studies; it must define one subclass of Study with a "
            "name that no other study has."
        )
    return found[0]


def stratum(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a stratum: `all`, `easy` or `hard`."""
    return table if name == "all" else table[table[name]]
