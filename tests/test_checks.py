from importlib.util import find_spec, module_from_spec
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError

from tests import CALLS
from tests.checks import every


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Series, iter])
def test_every_needs_something_to_hold_for(kind) -> None:
    assert every(kind([True, True]))
    assert not every(kind([True, False]))
    with pytest.raises(AssertionError, match="nothing was selected"):
        every(kind([]))


def test_every_looks_at_all_dimensions() -> None:
    assert not every(torch.tensor([[True, True], [True, False]]))
    with pytest.raises(AssertionError):
        every(torch.ones(3, 0, dtype=torch.bool))


def afresh(name: str) -> ModuleType:
    """Execute a module once more, as the import hook compiles it: none of its calls has counted."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shapes_are_checked_while_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="slope"):
        afresh("prob3r.rooms.cameras").intrinsics_for(torch.ones(2), (4, 4))
    with pytest.raises(TypeCheckError, match="image"):
        afresh("prob3r.scenes.view").View(torch.ones(2, 3, 4))


def test_shapes_are_checked_in_the_first_calls() -> None:
    intrinsics_for = afresh("prob3r.rooms.cameras").intrinsics_for
    for _ in range(CALLS):
        intrinsics_for(torch.ones(2, 2), (4, 4))
    assert intrinsics_for(torch.tensor(1.0), (4, 4)).shape == (3, 3)
