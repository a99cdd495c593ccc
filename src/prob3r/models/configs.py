"""What the configurations of the architectures share: checks, and the way to JSON and back."""

from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prob3r.errors import Prob3rError

Config = TypeVar("Config")


def check_counts(config: Any, may_be_zero: Collection[str] = ()) -> None:
    """Raise Prob3rError if a whole number of a configuration is too small.

    Args:
        config: A dataclass. Its tuples are checked number by number.
        may_be_zero: Names of the fields that need not be at least 1.
    """
    for name, value in asdict(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        least = 0 if name in may_be_zero else 1
        if all(isinstance(number, int) for number in numbers) and min(numbers) < least:
            raise Prob3rError(f"{name} is {value}; it must be at least {least}.")


def check_multiple(name: str, value: int, factor: int, reason: str) -> None:
    """Raise Prob3rError unless a number is a multiple of a factor, which `reason` explains."""
    if value % factor:
        raise Prob3rError(f"{name} is {value}; it must be a multiple of {factor} ({reason}).")


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON can hold it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def from_json(kind: type[Config], values: dict[str, Any], architecture: str) -> Config:
    """Return the configuration that `to_json` gave. Fields that are not there take their defaults.

    Files are written by anyone, so types are checked here.

    Args:
        kind: A dataclass whose fields are whole numbers, numbers, and tuples of whole numbers.
        values: From JSON.
        architecture: Whose configuration it is, for messages.

    Raises:
        Prob3rError: A value is unknown or of another type, or no such model can be built.
    """
    if unknown := sorted(values.keys() - {field.name for field in fields(kind)}):  # type: ignore[arg-type]
        raise Prob3rError(f"{', '.join(unknown)} is not known of a {architecture}.")
    types = get_type_hints(kind)
    return kind(**{name: _read(name, value, types[name]) for name, value in values.items()})


def _read(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        count = len(get_args(kind))
        if isinstance(value, list | tuple) and len(value) == count and all(map(_whole, value)):
            return tuple(value)
        form = f"{count} whole numbers"
    elif kind is float:
        if isinstance(value, int | float):
            return float(value)
        form = "a number"
    else:
        if _whole(value):
            return value
        form = "a whole number"
    raise Prob3rError(f"{name} is {value!r}; it must be {form}.")


def _whole(value: object) -> bool:
    return isinstance(value, int)
