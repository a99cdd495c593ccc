"""The tests. While they run, signatures with shapes are checked; mypy checks all others."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
import torch

CALLS = 200  # of one function that a process checks: the later ones would take a third of its time

_check = jaxtyping.jaxtyped


def _check_shapes(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorate as `jaxtyped` does, but leave what names no shape, and the calls after the first."""

    def decorate(checked: Any) -> Any:
        if "jaxtyping" not in repr(getattr(checked, "__annotations__", {})):
            return checked
        if not inspect.isclass(checked):
            return first_calls(checked)
        if dataclasses.is_dataclass(checked):
            checked.__init__ = first_calls(checked.__init__)  # type: ignore[method-assign]
        return checked

    def first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
        with_checks: Callable[..., Any] | None = None
        calls = 0

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls, with_checks
            if calls >= CALLS or torch.compiler.is_compiling():
                return function(*args, **kwargs)
            if with_checks is None:
                with_checks = _check(typechecker=typechecker)(function)
            calls += 1
            return with_checks(*args, **kwargs)

        return call

    return decorate


jaxtyping.jaxtyped = _check_shapes  # the name that the import hook writes before every function
