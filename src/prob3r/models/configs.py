"""Shared parts of the configurations of the architectures: checks, and conversion to JSON."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prob3r.errors import Prob3rError

Config = TypeVar("Config")


def check_counts(config: Any, may_be_zero: Collection[str] = ()) -> None:
    """Raise Prob3rError if a whole number of a configuration is too small.

    Args:
        config: A dataclass. Each number in its tuples is checked.
        may_be_zero: Names of the fields that may be 0; all others must be at least 1.
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


def check_rope_base(base: float) -> None:
    """Raise Prob3rError unless a number can be the base of a rotary position embedding."""
    if not 0 < base < math.inf:
        raise Prob3rError(f"rope_base is {base}; it must be finite and positive.")


def check_square(size: tuple[int, int], patch: int, condition: str = "") -> None:
    """Raise Prob3rError unless DINOv2 can have positions for images of a size.

    Args:
        size: Height and width, in pixels.
        patch: Side of a patch, in pixels.
        condition: The condition under which this is required, for the message.
    """
    height, width = size
    if height != width or height % patch:
        raise Prob3rError(
            f"image_size is {size}; {condition}it must be a square of whole patches of {patch} "
            "pixels."
        )


def check_dense_head(features: int, channels: Sequence[int], whose: str) -> None:
    """Raise Prob3rError unless dense heads of these channels can add positions to their maps.

    Args:
        features: Channels of the fused maps.
        channels: Channels of the maps before they are fused.
        whose: Owner of the maps, for the message.
    """
    positions = f"for the positions of the {whose} maps"
    check_multiple("features", features, 8, f"8, {positions}")
    for count in channels:
        check_multiple("channels", count, 4, f"4, {positions}")


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration as values that fit JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def from_json(kind: type[Config], values: dict[str, Any], architecture: str) -> Config:
    """Return a configuration from the result of `to_json`. Missing fields take their defaults.

    Files are not trusted, so types are checked here.

    Args:
        kind: A dataclass whose fields are whole numbers, numbers, and tuples of whole numbers.
        values: The values from JSON.
        architecture: Name of the architecture, for messages.

    Raises:
        Prob3rError: A name is unknown, a value has the wrong type, or no such model can be built.
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
