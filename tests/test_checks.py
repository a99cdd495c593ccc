import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import TypeCheckError

from prob3r.rooms.cameras import intrinsics_for
from prob3r.scenes import View
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


def test_shapes_are_checked_while_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="slope"):
        intrinsics_for(torch.ones(2), (4, 4))
    with pytest.raises(TypeCheckError, match="image"):
        View(torch.ones(2, 3, 4))
