"""The tests. While they run, signatures with shapes are checked; mypy checks all others."""

from collections.abc import Callable
from typing import Any

import jaxtyping

_check = jaxtyping.jaxtyped


def _check_shapes(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorate as `jaxtyped` does, but leave what names no shape: that saves half of the time."""

    def decorate(checked: Any) -> Any:
        annotations = getattr(checked, "__annotations__", {})
        shaped = "jaxtyping" in repr(annotations)
        return _check(typechecker=typechecker)(checked) if shaped else checked

    return decorate


jaxtyping.jaxtyped = _check_shapes  # the name that the import hook writes before every function
