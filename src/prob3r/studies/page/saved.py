"""The saved results of the studies of one model, for the page of findings."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.studies.framework.conduct import NOT_RUN
from prob3r.studies.framework.verdict import Finding

VERDICTS = ("supported", "not supported", "mixed")


@dataclass(frozen=True)
class Saved:
    """The results of one model.

    Attributes:
        model: The model's name.
        weights: Its fingerprint.
        folder: Where the results are, one folder a study.
        results: The result of each study by name, as `conduct` wrote it.
        left: The reason for each study that was not run, by name.
        on: What follows a model's name in the columns of a page with several data sets.
    """

    model: str
    weights: str
    folder: Path
    results: Mapping[str, dict[str, Any]]
    left: Mapping[str, str]
    on: str = ""

    @property
    def column(self) -> str:
        """The column of the model under test."""
        return self.model + self.on

    @property
    def data(self) -> str:
        """The data of most of the studies; some studies bring their own."""
        ((name, _),) = Counter(result["data"] for result in self.results.values()).most_common(1)
        return str(name)

    @property
    def references(self) -> dict[str, str]:
        """Fingerprints of the models that the studies compared this model with, by name."""
        found: dict[str, str] = {}
        for result in self.results.values():
            relatives = result.get("relatives")
            found |= relatives if isinstance(relatives, dict) else {}
        return found


def read_saved(folder: Path, order: Sequence[str]) -> Saved:
    """Read the results in a folder.

    Args:
        folder: The folder into which `conduct` wrote them.
        order: Names of the studies in the order of the page; those without results are left out.

    Raises:
        Prob3rError: There are no results, or they are of several models, or damaged.
    """
    read = {name: _read(folder / name / "findings.json") for name in order}
    results = {name: result for name, result in read.items() if result}
    if not results:
        raise Prob3rError(f"{folder} holds no findings; run `prob3r study` first.")
    models = {(result["model"], result["weights"]) for result in results.values()}
    if len(models) > 1:
        names = " and ".join(sorted(f"{name} ({weights})" for name, weights in models))
        raise Prob3rError(f"{folder} holds findings of {names}; give each a folder of its own.")
    ((model, weights),) = models
    files = {name: folder / name / NOT_RUN for name in order}
    left = {name: _why(file) for name, file in files.items() if file.exists()}
    return Saved(model, weights, folder, results, left)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    result = _json(path)
    texts = ("title", "model", "weights", "data")
    if not (
        all(isinstance(result.get(key), str) for key in texts)
        and "pairs" in result
        and isinstance(result.get("findings"), list)
        and all(map(_is_finding, result["findings"]))
    ):
        raise _damaged(path)
    return result


def _why(path: Path) -> str:
    """Return why a study was not run."""
    why = _json(path).get("why")
    if not isinstance(why, str):
        raise _damaged(path)
    return why


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path) from error
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> Prob3rError:
    return Prob3rError(f"{path} is damaged; delete it and run the study again.")


def _is_finding(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() >= {field.name for field in fields(Finding)}
        and value["verdict"] in VERDICTS
        and all(isinstance(value[key], str) for key in ("claim", "statement", "unit"))
        and all(isinstance(value[key], float | int | None) for key in ("effect", "low", "high"))
    )
