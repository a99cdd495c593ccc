"""What every study is: a measurement of each pair, and what all of them together say.

To write a study, copy a file such as `refinement.py`: say what is asked and by what rule it is
answered in the docstring, measure one batch of pairs in `measure`, answer in `findings`, and show
the numbers in `figures`. `conduct` does the rest: strata, progress, resuming, files.
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
"""What a study measures a batch of: pairs, or scenes of more views."""

MODEL, POSITIVE = "model", "mini-pose"
"""Whose rows they are: the model's, or the positive control's."""

BETWEEN, WITHIN = (BETWEEN_VIEWS,), (BETWEEN_VIEWS, ("self_attn",))
"""What `Study.attention` may be: attention between the views, or also within a view."""

OWN_PROBES = ("mlp", "features", "ridge", "linear")
"""Kinds of probes of a model itself, the ones that studies read first."""


CONTROLS = ("random", "encoder")
"""Kinds of probes that are controls."""

NOT_RUN = "not-run.json"
"""The file that says what a model lacks for a study that was not run."""


class LackingError(Prob3rError):
    """A model lacks what a study needs."""


@dataclass(frozen=True)
class ModelUnderTest:
    """What a study looks into.

    Attributes:
        model: The model.
        name: What to call it.
        banks: Probes by kind: those to read with, such as `ridge`, and the controls `random` and
            `encoder`.
        untrained: The backbone of random weights that the `random` probes belong to.
        references: Other models to hold it against, by name: `mini-pose`, the positive control that
            carries an explicit pose; variants; and its own weights along training.
    """

    model: Model
    name: str
    banks: Mapping[str, SiteReader] = field(default_factory=dict)
    untrained: Model | None = None
    references: Mapping[str, Model] = field(default_factory=dict)

    def bank(self, *kinds: str) -> SiteReader:
        """Return the probes of the first of some kinds that there is, by default of `OWN_PROBES`.

        Raises:
            LackingError: There are none.
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
    def origins(self) -> dict[str, str]:
        """What the probes were fitted to and on, by kind, as far as that is known."""
        return {kind: bank.origin for kind, bank in self.banks.items() if bank.origin}


@dataclass(frozen=True)
class Result:
    """What a study came to, for one model and data set.

    Attributes:
        study: The study's name.
        model: The model's name.
        data: The name of the pairs.
        findings: Its answers.
        table: Every measurement, one row each.
    """

    study: str
    model: str
    data: str
    findings: list[Finding]
    table: pd.DataFrame


class Study(ABC, Generic[Seen]):
    """A question put to a model over many pairs; every class with a `name` is registered.

    A study of scenes of more views is a `Study[Views]` that says how many in `views`.

    Attributes:
        registry: Every study class by its name.
        name: One word, which its folder is called.
        title: What it is about, in a few words.
        place: Where it stands in the page of findings; by default after all those that have a
            place.
        data: Name of the pairs that the question needs, if it needs pairs of its own.
        views: How many views a scene has; of a model that takes fewer, as many as it takes.
        fewest: How few views the question makes sense for.
        batch: Pairs at a time.
        most: Pairs beyond which the question costs more than they add to the answer.
        probes: Whether it reads sites with probes.
        output: Whether it measures the model's own pointmaps.
        attention: The kinds of attention that the model must have in its trunk, one of each group.
        twins: Names of trained references that serve as controls.
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
    twins: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Register the study by its name."""
        if "name" in vars(cls):
            Study.registry[cls.name] = cls

    def choose_views(self, model: Model, asked: int | None = None) -> None:
        """Set how many views a scene has: what is asked, or else as many as the model takes.

        A study of pairs stays one.

        Raises:
            Prob3rError: The question needs more views than are asked for.
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

    def missing_twins(self, tested: ModelUnderTest) -> list[str]:
        """Return which of the trained controls there are not."""
        return [name for name in self.twins if name not in {*tested.references, tested.name}]

    def prepare(self, tested: ModelUnderTest, pairs: Scenes[Seen]) -> None:
        """Find out what has to be known before the first batch; the same for the same pairs.

        Args:
            tested: What the study looks into.
            pairs: All that the sample is drawn from.
        """

    @abstractmethod
    def measure(self, tested: ModelUnderTest, pair: Seen, /) -> pd.DataFrame:
        """Return measurements of a batch, one row each.

        The column `pair` holds the pair's place in the batch. Rows without one belong to none.
        """

    @abstractmethod
    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers that all measurements give, by the rule in the docstring.

        Args:
            table: The rows of all batches, with `pair` counted over all of them, and the columns
                `easy` and `hard` for the stratum of the pair.
        """

    @abstractmethod
    def figures(self, table: pd.DataFrame) -> dict[str, "Figure"]:
        """Return what there is to see, by name."""


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
    """Measure, answer and draw, or go on with a study that was stopped at any moment.

    Several processes measure every other batch each, and the first of them writes the answers.

    Args:
        study: The question.
        tested: What to put it to.
        pairs: Over what; with the full truth.
        count: How many of the pairs: a sample of them, see `prob3r.scenes.sampling.sample`.
        folder: Gets `STUDY/table.parquet` and `.csv`, `findings.json` and the figures.
        data: The pairs' name.
        report: Called with the number of pairs done and the number to do.
        processes: Those that share the work; this one by default.

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
    # Folders from before samples were named hold the first pairs: of rooms, the same ones. Those
    # from before precisions were named ran in float32.
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
        if twins := study.missing_twins(tested):
            about["missing"] = twins
        rests_on = {
            "protocol": {"name": f"study {study.name}", "data": data},
            "frames": frames_of(names, describe(drawn)),
            "prob3r": version(),
        }
        _write(result, study, home, about | rests_on)
    return result


def leave_out(study: Study[Any], why: str, folder: Path) -> None:
    """Write down that a study was not run, and why, for the page of findings.

    Raises:
        Prob3rError: The folder cannot be written.
    """
    home = folder / study.name
    make_folder(home)
    with writing_to(home / NOT_RUN) as path:
        said = {"title": study.title, "why": why}
        path.write_text(json.dumps(said, indent=1), encoding="utf-8")


def _claim(path: Path, about: dict[str, object], unnamed: Mapping[str, object]) -> None:
    """Write what a folder is about, or raise Prob3rError if it is about something else.

    Args:
        path: The file that says it.
        about: What is to be written.
        unnamed: What a file is about that leaves it out, as older files do.
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
    """Return a batch's rows with the pairs' numbers over all batches, and their strata."""
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
