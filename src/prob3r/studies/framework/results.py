"""Result files: the provenance of numbers, and the check whether two results are comparable."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.io.files import digest_of, to_json, writing_to
from prob3r.models import Model, fingerprint
from prob3r.runs.precision import running_precision

LABELS = ("stratum", "view", "metric")
"""The columns that identify the value of a row."""


def provenance(
    model: Model, name: str, data: str, protocol: Mapping[str, Any], frames: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the provenance for a result file: protocol, frames, model, precision and version.

    Args:
        model: The measured model.
        name: The model's name.
        data: The name of the data.
        protocol: The `name` of the protocol, and everything that defines the numbers. Two results
            are comparable if this is equal.
        frames: The frames that were used; their `digest` identifies them.
    """
    return {
        "protocol": dict(protocol),
        "frames": dict(frames),
        "data": data,
        "model": {"name": name, "fingerprint": fingerprint(model)},
        "precision": running_precision(model),
        "prob3r": version(),
    }


def version() -> str:
    """Return prob3r's version."""
    from prob3r import __version__  # the package imports its rooms before it has a version

    return __version__


def frames_of(names: Sequence[str], words: str) -> dict[str, Any]:
    """Return the entry of a result file on frames that are identified by their names.

    Args:
        names: The names of the frames.
        words: How the frames were chosen.
    """
    return {"digest": digest_of(list(names)), "chosen": words, "list": list(names)}


def write_result(content: Mapping[str, Any], path: Path) -> None:
    """Write a result as JSON, completely or not at all.

    Raises:
        Prob3rError: The file cannot be written.
    """
    with writing_to(path) as temporary:
        temporary.write_text(json.dumps(to_json(dict(content)), indent=1), encoding="utf-8")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        Prob3rError: The file is not a result, or has no protocol and frames.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Prob3rError(
            f"{path} cannot be read ({error}); give a file that --json of prob3r wrote."
        ) from error
    if not _is_result(content):
        raise Prob3rError(
            f"{path} does not say its protocol and its frames; give a file that --json of this "
            "version of prob3r evaluate wrote."
        )
    return content


def _is_result(content: Any) -> bool:
    """Return whether a file's content has all that `compare` reads."""
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        return False
    return (
        all(isinstance(content.get(name), dict) for name in ("protocol", "frames", "model"))
        and isinstance(content["frames"].get("list"), list)
        and all(isinstance(row, dict) and _has_value(row) for row in content["rows"])
    )


def _has_value(row: dict[str, Any]) -> bool:
    numbers = (row.get(name, "") for name in ("value", "low", "high"))
    return "metric" in row and all(n is None or isinstance(n, int | float) for n in numbers)


@dataclass(frozen=True)
class Comparison:
    """Results of one protocol side by side.

    Attributes:
        title: The protocol's name.
        facts: Facts about the results by name, with one text for each result.
        rows: The label of each row, and for each result the value with its interval; None if a
            result does not have it.
        better: For each row, `larger` or `smaller` values are better; empty if that is not known.
    """

    title: str
    facts: dict[str, list[str]]
    rows: list[tuple[str, list[tuple[float, float, float] | None]]]
    better: list[str]


def compare(paths: Sequence[Path]) -> Comparison:
    """Return results side by side.

    Args:
        paths: The result files.

    Raises:
        Prob3rError: A file is not a result, or protocols or frames differ; the message names the
            difference.
    """
    results = [read_result(path) for path in paths]
    for path, result in zip(paths[1:], results[1:], strict=True):
        difference = _difference(results[0], result)
        if difference:
            raise Prob3rError(
                f"{paths[0]} and {path} differ in {difference}; only results of one protocol on "
                "the same frames can be compared."
            )
    values: dict[str, list[tuple[float, float, float] | None]] = {}
    better: dict[str, str] = {}
    for number, result in enumerate(results):
        for row in _rows(result):
            label = " ".join(str(row[name]) for name in LABELS if name in row)
            cells = values.setdefault(label, [None] * len(results))
            cells[number] = row["value"], row["low"], row["high"]
            better[label] = str(row.get("better", ""))
    if not values:
        raise Prob3rError(
            f"{paths[0]} holds no metric of a model's output; give a file that --json of prob3r "
            "evaluate wrote."
        )
    facts = {
        "model": [str(result["model"].get("name")) for result in results],
        "fingerprint": [str(result["model"].get("fingerprint")) for result in results],
        "views": [str(result["model"].get("views", "")) for result in results],
        "cameras": [str(result["model"].get("cameras", "")) for result in results],
        "framing": [str(result["model"].get("framing", "")) for result in results],
        "precision": [str(result.get("precision")) for result in results],
        "prob3r": [str(result.get("prob3r")) for result in results],
    }
    shown = {name: cells for name, cells in facts.items() if any(cells)}
    title = str(results[0]["protocol"].get("name"))
    return Comparison(title, shown, list(values.items()), list(better.values()))


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return the difference that makes two results incomparable, in words; empty if none."""
    for name in one["protocol"] | other["protocol"]:
        mine, theirs = one["protocol"].get(name), other["protocol"].get(name)
        if mine != theirs:
            what = "their protocol" if name == "name" else f"the protocol's {name}"
            return f"{what} ({mine} against {theirs})"
    mine, theirs = one["frames"].get("digest"), other["frames"].get("digest")
    if mine != theirs:
        counts = [len(result["frames"]["list"]) for result in (one, other)]
        return (
            f"their frames ({counts[0]} scenes, digest {mine}, against {counts[1]} scenes, "
            f"digest {theirs})"
        )
    return ""


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows about the model's own output, with numbers for None."""
    own, found = {"source": "model", "site": "head"}, []
    for row in result["rows"]:
        if all(row.get(column, value) == value for column, value in own.items()):
            found.append(row | {k: nan for k in ("value", "low", "high") if row.get(k) is None})
    return found
