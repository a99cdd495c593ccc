"""Checks that the published files of several architectures share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import MultiViewModel, read


def assert_same(got: Any, expected: MultiViewModel) -> None:
    """Check that a model that was read is the expected one, ready to run."""
    assert type(got) is type(expected)
    assert got.config == expected.config
    states = got.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not got.training


def assert_refused_without(gone: str, named: str, weights: dict[str, Tensor], folder: Path) -> None:
    """Check that weights without some of them are refused by a sentence.

    Args:
        gone: The name of a weight, or its beginning and `*`.
        named: What the sentence says of it, beside the file's name.
        weights: All of them.
        folder: Where to write.
    """
    prefix = gone.removesuffix("*")
    torch.save({n: t for n, t in weights.items() if not n.startswith(prefix)}, folder / "a.pt")
    with pytest.raises(Prob3rError) as error:
        read(folder / "a.pt")
    assert named in str(error.value)
    assert "a.pt" in str(error.value)
