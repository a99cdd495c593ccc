"""The registry of architectures: their classes, and the readers of their published files."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeGuard

from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.protocol import MultiViewModel

ARCHITECTURES: dict[str, type[MultiViewModel]] = {}
"""The class of every architecture, by its name; a class is called with its configuration."""


class Published:
    """Reads the published files of an architecture. This base class recognises no file.

    The methods return None for a file of another architecture. They raise Prob3rError for a file of
    this architecture that cannot be used. Weights are memory-mapped, so reading their shapes is
    cheap.

    Attributes:
        names: The configurations of published models by their hub id, `owner/name`, so that models
            can be described without a file.
    """

    names: ClassVar[Mapping[str, Any]] = {}

    def of_pickle(self, content: Any) -> tuple[Any, dict[str, Tensor]] | None:
        """Return the configuration and the weights in a `.pth` or `.pt` file.

        By default the file has only weights, at the top level or under `model`, and the
        configuration follows from their shapes.
        """
        weights = content.get("model", content) if isinstance(content, dict) else None
        if not are_tensors(weights):
            return None
        config = self.of_weights(weights)
        return None if config is None else (config, weights)

    def of_weights(self, weights: Mapping[str, Tensor]) -> Any | None:
        """Return the configuration that follows from weights without a configuration."""
        return None

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> Any | None:
        """Return the configuration of a hub folder.

        Args:
            values: The content of its `config.json`, with tuples in place of lists.
            weights: The content of its `model.safetensors`, or None if it was not downloaded.
            origin: Name of the file, for error messages.
        """
        return None

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with prob3r's names, without those that the model does not use."""
        return dict(weights)


class Shapes:
    """Finds the sizes of a model from the shapes of its weights.

    Args:
        weights: The weights by name.
        architecture: Name of the architecture, for error messages.
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
        """Return the number of modules in a list of modules, by the prefix of their names."""
        numbers = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in self.weights)
        return len({found[1] for found in numbers if found})


PUBLISHED: dict[str, Published] = {}
"""How the published files of every architecture are read, by its name."""


def register(kind: type[MultiViewModel], published: Published | None = None) -> None:
    """Register an architecture, so that its models can be saved, loaded, described and randomised.

    Args:
        kind: The class of its models. It has a name (`architecture`) and a class of configurations
            (`config_type`), which has `to_dict`, `from_dict`, `build` and the number of `blocks`.
        published: Reads the published files of its weights.
    """
    ARCHITECTURES[kind.architecture] = kind
    PUBLISHED[kind.architecture] = Published() if published is None else published


def architecture_of(config: object) -> type[MultiViewModel]:
    """Return the model class of a configuration; the first registered one if there are several.

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
    """Return the class and the configuration of a published model, or None if the name is unknown.

    Args:
        name: With or without the owner on the hub: `facebook/VGGT-1B` or `VGGT-1B`.
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
