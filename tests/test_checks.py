import numpy as np
import pandas as pd
import pytest
import torch

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
