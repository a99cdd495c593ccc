"""The architectures that prob3r knows: how each is made, and how its published files are read."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeGuard

from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.protocol import MultiViewModel

ARCHITECTURES: dict[str, type[MultiViewModel]] = {}
"""The class of every architecture, by its name; a class is called with its configuration."""


class Published:
    """How the files in which an architecture is published are read; this one knows none.

    Every method returns None for what is not of this architecture, and raises Prob3rError for what
    is of it and cannot be used. Weights are mapped, so that their shapes cost nothing.

    Attributes:
        names: The configurations of published models, by the names that they are published under,
            on the hub `owner/name`, so that they can be described without any file.
    """

    names: ClassVar[Mapping[str, Any]] = {}

    def of_pickle(self, content: Any) -> tuple[Any, dict[str, Tensor]] | None:
        """Return the configuration and the weights that a `.pth` or `.pt` file holds.

        By default the file holds weights alone, by themselves or under `model`, and their shapes
        tell the configuration.
        """
        weights = content.get("model", content) if isinstance(content, dict) else None
        if not are_tensors(weights):
            return None
        config = self.of_weights(weights)
        return None if config is None else (config, weights)

    def of_weights(self, weights: Mapping[str, Tensor]) -> Any | None:
        """Return the configuration of weights that come without one."""
        return None

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> Any | None:
        """Return the configuration of a hub folder.

        Args:
            values: What its `config.json` holds; its lists are tuples.
            weights: What its `model.safetensors` holds, or None if they were not fetched.
            origin: Begins the message of an error.
        """
        return None

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights under our names, without those that are no part of the model."""
        return dict(weights)


class Shapes:
    """Reads the sizes of a model off the shapes of its weights.

    Args:
        weights: By name.
        architecture: What the weights look like, for messages.
    """

    def __init__(self, weights: Mapping[str, Tensor], architecture: str):
        self.weights, self.architecture = weights, architecture

    def size(self, name: str, axis: int) -> int:
        """Return the size of a weight along an axis.

        Raises:
            Prob3rError: There is no such weight, or it has no such axis.
        """
        if name not in self.weights or self.weights[name].ndim <= axis:
            raise Prob3rError(
                f"The weights look like those of a {self.architecture}, and lack a whole {name}."
            )
        return self.weights[name].shape[axis]

    def count(self, prefix: str) -> int:
        """Return how many numbers follow a prefix: how many blocks a list of modules has."""
        numbers = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in self.weights)
        return len({found[1] for found in numbers if found})


PUBLISHED: dict[str, Published] = {}
"""How the published files of every architecture are read, by its name."""


def register(kind: type[MultiViewModel], published: Published | None = None) -> None:
    """Make an architecture known, so that its models are saved, loaded, described and drawn.

    Args:
        kind: The class of its models. It has a name (`architecture`) and a class of configurations
            (`config_type`), which has `to_dict`, `from_dict` and the number of `blocks`.
        published: Reads the files in which others publish its weights.
    """
    ARCHITECTURES[kind.architecture] = kind
    PUBLISHED[kind.architecture] = Published() if published is None else published


def architecture_of(config: object) -> type[MultiViewModel]:
    """Return the class of models that a configuration makes, the first registered of several.

    Raises:
        Prob3rError: No architecture has configurations of this class.
    """
    for kind in ARCHITECTURES.values():
        if kind.config_type is type(config):
            return kind
    raise Prob3rError(
        f"A {type(config).__name__} is no configuration of {' or '.join(ARCHITECTURES)}."
    )


def published_model(name: str) -> tuple[type[MultiViewModel], Any] | None:
    """Return the class and the configuration of a published model, or None if none is so called.

    Args:
        name: With the owner on the hub, or without: `facebook/VGGT-1B` or `VGGT-1B`.
    """
    for architecture, published in PUBLISHED.items():
        for known, config in published.names.items():
            if name in (known, known.rpartition("/")[2]):
                return ARCHITECTURES[architecture], config
    return None


def published_names() -> list[str]:
    """Return the names of all published models whose configurations are known."""
    return sorted(name for published in PUBLISHED.values() for name in published.names)


def are_tensors(weights: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether something is a dictionary of named tensors."""
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
