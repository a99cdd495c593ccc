"""Models made by third-party code: `package.module:factory`, or names of installed packages.

An installed package provides a model by an entry point of the group `prob3r.architectures`. It
refers to a function (or a class) that takes no arguments and returns a `Model`. Using such a name
imports the package and runs its code, as `python -m` does.
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
    """Return whether a name has the form `package.module:factory`."""
    return _FACTORY.fullmatch(source) is not None


def installed() -> Mapping[str, str]:
    """Return the models of installed packages, as names with their `package.module:factory`.

    Nothing is imported.
    """
    return {name: point.value for name, point in sorted(_points().items())}


def make_installed(name: str) -> Model:
    """Return a new model by a name in `installed()`; raise Prob3rError if it cannot be made."""
    return make(_points()[name].value)


def make(factory: str) -> Model:
    """Return the model that a factory makes, in eval mode if it is a torch module.

    The module is looked for in the working folder first, then in the installed packages. Its code
    runs when it is imported and when the factory is called.

    Args:
        factory: `package.module:factory`.

    Raises:
        Prob3rError: The module or the factory does not exist, one of them fails, or the factory
            returns something other than a `Model`.
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
    """Return a short one-line description of an exception of third-party code."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
