"""Checks of selections: a selection of nothing fails, since everything is true of it."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch


def every(condition: Iterable[Any] | torch.Tensor | np.ndarray | pd.Series) -> bool:
    """Return whether a condition holds everywhere, and somewhere at all.

    Raises:
        AssertionError: Nothing was selected.
    """
    if isinstance(condition, torch.Tensor):
        condition = condition.detach().cpu().numpy()
    held = np.asarray(condition if hasattr(condition, "__len__") else list(condition))
    assert held.size, "nothing was selected, so the check says nothing"
    return bool(held.all())
