"""Calibrations as JSON files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.io.files import to_json, writing_to
from prob3r.reliability.prediction import FOLDS, RIDGE, Bin, Logistic, calibration_error

Read = TypeVar("Read")

_COLUMNS = ("mean", "spread", "low", "high", "weights")
_UNREADABLE = (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)


@runtime_checkable
class Fitted(Protocol):
    """A calibration: a dataclass with a fit, and the bins of its cross-fitted probabilities."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def fit(self) -> Logistic:
        """The fit on all calibration data."""

    @property
    def bins(self) -> list[Bin]:
        """The bins of the reliability diagram."""


def write_calibration(
    calibration: Fitted, signals: Sequence[str], version: int, path: Path
) -> None:
    """Write a calibration; raise Prob3rError if the file cannot be written.

    Args:
        calibration: The calibration; all its fields are written.
        signals: Names of the columns of its fit.
        version: Version of the file.
        path: The file.
    """
    content = asdict(calibration)
    del content["fit"]
    content |= {
        "version": version,
        "folds": FOLDS,
        "ridge": RIDGE,
        "calibration_error": calibration_error(calibration.bins),
        "bins": [found._asdict() for found in calibration.bins],
        **fit_to_json(calibration.fit, signals),
    }
    with writing_to(path) as temporary:
        text = json.dumps(to_json(content), indent=1, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_calibration(path: Path, parse: Callable[[Any], Read], command: str) -> Read:
    """Read a calibration.

    Args:
        path: The file.
        parse: Makes the calibration from the JSON value in the file.
        command: The command that makes such a file, for the message.

    Raises:
        Prob3rError: The file does not exist or holds no calibration with these signals.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Prob3rError(f"{path} cannot be read as a calibration: {error}.") from error
    try:
        return parse(json.loads(text))
    except _UNREADABLE as error:
        raise Prob3rError(
            f"{path} holds no calibration of this version's signals; make one with `{command}`."
        ) from error


def fit_to_json(fit: Logistic, names: Sequence[str]) -> dict[str, Any]:
    """Return a fit as values that fit JSON, with its columns by name."""
    return {
        "bias": float(fit.bias),
        "signals": {
            name: {column: float(getattr(fit, column)[i]) for column in _COLUMNS}
            for i, name in enumerate(names)
        },
    }


def fit_from_json(content: dict[str, Any], names: Sequence[str]) -> Logistic:
    """Return a fit whose columns have these names; raise an error of `_UNREADABLE` otherwise."""
    signals = content["signals"]
    if list(signals) != list(names):
        raise KeyError("signals")
    columns = {
        column: _double([_finite(signals[name][column]) for name in names]) for column in _COLUMNS
    }
    if not (columns["spread"] > 0).all():
        raise ValueError("nothing can be computed from it")
    return Logistic(**columns, bias=_double(_finite(content["bias"])))


def bins_from_json(content: list[dict[str, Any]]) -> list[Bin]:
    """Return the bins of a reliability diagram; raise an error of `_UNREADABLE` without any."""
    bins = [
        Bin(
            low=float(entry["low"]),
            high=float(entry["high"]),
            pairs=int(entry["pairs"]),
            failed=int(entry["failed"]),
            stated=torch.nan if entry["stated"] is None else float(entry["stated"]),
        )
        for entry in content
    ]
    if not bins:
        raise ValueError("there are no bins")
    return bins


def interval_from_json(values: Sequence[float]) -> Interval:
    """Return an interval; raise an error of `_UNREADABLE` if the values are not three numbers."""
    middle, low, high = map(_finite, values)
    return Interval(middle, low, high)


def _finite(value: float | str) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _double(values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.double)
