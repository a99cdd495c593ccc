"""Normal equations, held to regressions that see all rows at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prob3r.probes.equations import GRID, NormalEquations


def drawn(rows: int = 300, inputs: int = 7, outputs: int = 5) -> tuple[Tensor, Tensor]:
    """Inputs of unequal spread and a large mean, and outputs that follow but for noise."""
    x = torch.randn(rows, inputs) * torch.logspace(-2, 1, inputs) + 30
    return x, x @ torch.randn(inputs, outputs) + 4 + 0.1 * torch.randn(rows, outputs)


def regression(x: Tensor, y: Tensor, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The ridge regression of centred rows, in double precision."""
    x, y = x.double().numpy(), y.double().numpy()
    centred, mean = x - x.mean(0), y.mean(0)
    gram = centred.T @ centred
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(gram, centred.T @ (y - mean))
    return weight, mean - x.mean(0) @ weight


@pytest.mark.parametrize("ridge", GRID)
@pytest.mark.parametrize("parts", [1, 3])
def test_solutions_are_those_of_a_regression_on_all_rows(ridge: float, parts: int) -> None:
    x, y = drawn()
    equations = NormalEquations(7, 5)
    for some, outputs in zip(x.chunk(parts), y.chunk(parts), strict=True):
        equations.add(some, outputs)
    solutions = equations.solve()
    weight, bias = solutions.weight(ridge)
    expected, offset = regression(x, y, ridge)
    read = (x @ weight + bias).numpy()
    np.testing.assert_allclose(read, x.double().numpy() @ expected + offset, atol=2e-3)
    np.testing.assert_allclose(solutions.predict(solutions.rotate(x), ridge), read, atol=2e-3)
    assert equations.rows == 300


def test_some_outputs_have_the_same_solutions() -> None:
    x, y = drawn()
    equations = NormalEquations(7, 5)
    equations.add(x, y)
    solutions = equations.solve()
    weight, bias = solutions.weight(1e-2)
    some, offset = solutions.of(slice(1, 3)).weight(1e-2)
    torch.testing.assert_close(some, weight[:, 1:3])
    torch.testing.assert_close(offset, bias[1:3])


def test_inputs_that_never_change_have_no_say() -> None:
    x, y = drawn()
    x[:, 2] = 5
    equations = NormalEquations(7, 5)
    equations.add(x, y)
    weight, _ = equations.solve().weight(1e-6)
    assert weight.isfinite().all()
    assert weight[2].abs().max() < 1e-4


def test_a_width_that_tiles_do_not_divide() -> None:
    x, y = drawn(inputs=10)
    equations = NormalEquations(10, 5)
    equations.add(x, y)
    centred = (x - x.mean(0)).double()
    gram = equations.gram.triu().double()
    torch.testing.assert_close(gram, (centred.T @ centred).triu(), atol=1e-2, rtol=1e-5)
