"""Models that a function of someone else makes: `package.module:factory`, or installed by name.

An installed package offers a model by an entry point of the group `prob3r.architectures`, which
names a function (or a class) that takes no arguments and returns a `Model`. To use such a name
imports that package and runs its code, as `python -m` would.
"""

import importlib
import re
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from torch import nn

from prob3r.errors import Prob3rError
from prob3r.models.protocol import Model

GROUP = "prob3r.architectures"

_FACTORY = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<name>\w+(?:\.\w+)*)")


def is_factory(source: str) -> bool:
    """Return whether a name is written like `package.module:factory`."""
    return _FACTORY.fullmatch(source) is not None


def installed() -> Mapping[str, str]:
    """Return the models that installed packages offer: their names, and `package.module:factory`.

    Nothing is imported.
    """
    return {name: point.value for name, point in sorted(_points().items())}


def make_installed(name: str) -> Model:
    """Return a new model of a name among `installed`; raise Prob3rError if it cannot be made."""
    return make(_points()[name].value)


def make(factory: str) -> Model:
    """Return the model that a factory makes, in eval mode where it is a torch module.

    The module is searched for in the working folder first, then among what is installed. Importing
    it and calling the factory runs its code.

    Args:
        factory: `package.module:factory`.

    Raises:
        Prob3rError: The module or the factory is not there, one of them fails, or what the factory
            returns is not a `Model`.
    """
    found = _FACTORY.fullmatch(factory)
    if found is None:
        raise Prob3rError(f"'{factory}' names no factory; write it as package.module:factory.")
    made = _call(factory, _import(factory, found["module"]), found["name"])
    if isinstance(made, type) or not isinstance(made, Model):
        raise Prob3rError(
            f"'{factory}' returns a {type(made).__name__}, which is no Model; return an Adapter, "
            "or what docs/models.md describes."
        )
    return made.eval() if isinstance(made, nn.Module) else made


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _import(factory: str, module: str) -> object:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            raise Prob3rError(
                f"'{factory}' names the module '{module}', and there is none in {folder} nor among "
                "the installed packages."
            ) from error
        raise Prob3rError(
            f"'{factory}' cannot be imported: '{missing}', which it needs, is not installed."
        ) from error
    except Exception as error:  # the module is anyone's code
        raise Prob3rError(f"'{factory}' cannot be imported: {_said(error)}.") from error
    finally:
        sys.path.remove(folder)


def _call(factory: str, module: object, name: str) -> object:
    made = module
    for part in name.split("."):
        if not hasattr(made, part):
            raise Prob3rError(f"'{factory}' names '{name}', and its module has no such thing.")
        made = getattr(made, part)
    if not callable(made):
        raise Prob3rError(
            f"'{factory}' has the type {type(made).__name__}; it must be a function that takes no "
            "arguments and returns a Model."
        )
    try:
        return made()
    except Prob3rError:
        raise
    except Exception as error:  # the factory is anyone's code
        raise Prob3rError(f"'{factory}' was called and failed: {_said(error)}.") from error


def _said(error: Exception) -> str:
    """Return an exception of someone else's code in a few words on one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
