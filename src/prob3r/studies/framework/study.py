"""The base class of studies: a measurement of each pair or scene, and findings from all of them.

To write a study, copy a file such as `refinement.py`. State the question and the rule for its
verdict in the docstring, measure one batch in `measure`, return the verdicts in `findings`, and
draw the numbers in `figures`. `conduct` does the rest: strata, progress, resuming, files.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import pandas as pd
from typing_extensions import TypeVar

from prob3r.errors import Prob3rError
from prob3r.measures.steps import SUBLAYER_WORDS
from prob3r.models import Model
from prob3r.models.protocol import predicts_pointmaps, trunk
from prob3r.models.sites import BETWEEN_VIEWS, Site
from prob3r.scenes.source import Scenes
from prob3r.scenes.views import Pair, Views
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Seen = TypeVar("Seen", bound=Views, default=Pair)
"""The type of a batch: pairs, or scenes of more views."""

BETWEEN, WITHIN = (BETWEEN_VIEWS,), (BETWEEN_VIEWS, ("self_attn",))
"""Values of `Study.attention`: attention between views, or both between and within views."""


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
        prepared_on: Number of runs of a model over one scene that `prepare` takes, with those of
            the control with random weights.
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
    prepared_on: ClassVar[int] = 0
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

    def check_probes(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if the study needs probes and the model has none."""
        if self.probes:
            tested.bank()

    def prepares_on(self, model: Model) -> int:
        """Return `prepared_on` for a model, for a study in which it depends on the model."""
        return self.prepared_on

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

        It is not called if every batch was measured before.

        Args:
            tested: The model under test.
            pairs: All pairs or scenes from which the sample is drawn.
        """

    def illustrate(self, tested: ModelUnderTest, pairs: Scenes[Seen]) -> None:
        """Compute what the figures show beside the measurements; arguments as in `prepare`."""

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
