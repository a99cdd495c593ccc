"""Normal equations of affine maps, which grow while batches stream by, and their solutions."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

GRID = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The ridges to choose from, as shares of the mean diagonal of the Gram matrix."""

_SMALLEST = 1e-4  # a standard deviation under which an input does not vary
_TILES = 4  # per side of the Gram matrix; tiles below the diagonal are not computed
GRAM_SHARE = (_TILES + 1) / (2 * _TILES)  # the share of the tiles that are computed


class NormalEquations:
    """What a ridge regression needs of its data: sums of products.

    The inputs are shifted by their mean in the first batch. Single precision is then enough for
    inputs whose mean is large compared to their spread.

    Args:
        inputs: Width of the inputs.
        outputs: Width of the outputs.
        device: The device of the sums.
        dtype: The dtype of the sums of products.

    Attributes:
        rows: The number of rows that were added.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.rows = 0
        self.gram = torch.zeros(inputs, inputs, device=device, dtype=dtype)
        self.cross = torch.zeros(inputs, outputs, device=device, dtype=dtype)
        self._shift: Tensor | None = None
        self._input_sum, self._output_sum = (
            torch.zeros(width, device=device, dtype=torch.float64) for width in (inputs, outputs)
        )

    def add(self, inputs: Float[Tensor, "n i"], outputs: Float[Tensor, "n o"]) -> None:
        """Add rows to the sums."""
        if self._shift is None:
            self._shift = inputs.mean(0)
        shifted = inputs - self._shift
        self.rows += len(inputs)
        self._input_sum += shifted.sum(0)
        self._output_sum += outputs.sum(0)
        shifted, outputs = shifted.to(self.gram), outputs.to(self.gram)
        _add_gram(self.gram, shifted)
        self.cross.addmm_(shifted.T, outputs)

    def solve(self, standardised: bool = False) -> "Solutions":
        """Return the solutions for all ridges.

        The decomposition is in double precision, because small ridges need it. It takes little
        time compared to the sums.

        Args:
            standardised: Whether ridges act on inputs divided by their standard deviation. An
                input that hardly varies is not divided.
        """
        assert self._shift is not None  # there are rows
        input_mean, output_mean = self._input_sum / self.rows, self._output_sum / self.rows
        gram = self.gram.triu().double()
        gram = gram + gram.triu(1).T - self.rows * torch.outer(input_mean, input_mean)
        cross = self.cross.double().addr_(input_mean, output_mean, alpha=-self.rows)
        scale = torch.ones_like(input_mean)
        if standardised:
            spread = (gram.diagonal() / (self.rows - 1)).sqrt()
            scale = spread.where(spread > _SMALLEST, 1)
            gram, cross = gram / torch.outer(scale, scale), cross / scale[:, None]
        values, vectors = torch.linalg.eigh(gram)
        return Solutions(
            values=values.clamp(min=0).float(),
            vectors=(vectors / scale[:, None]).float(),
            cross=(vectors.T @ cross).float(),
            input_mean=(input_mean + self._shift).float(),
            output_mean=output_mean.float(),
        )


class Solutions(NamedTuple):
    """The ridge regressions of all ridges, from one decomposition of the Gram matrix.

    Attributes:
        values: Eigenvalues of the centred Gram matrix.
        vectors: Its eigenvectors, as columns. For standardised inputs, rows are divided by the
            standard deviations.
        cross: The centred products of inputs and outputs, in the basis of the eigenvectors.
        input_mean: Mean of the inputs.
        output_mean: Mean of the outputs.
    """

    values: Float[Tensor, " i"]
    vectors: Float[Tensor, "i i"]
    cross: Float[Tensor, "i o"]
    input_mean: Float[Tensor, " i"]
    output_mean: Float[Tensor, " o"]

    def of(self, outputs: slice) -> "Solutions":
        """Return the solutions for some of the outputs."""
        return self._replace(cross=self.cross[:, outputs], output_mean=self.output_mean[outputs])

    def rotate(self, inputs: Float[Tensor, "n i"]) -> Float[Tensor, "n i"]:
        """Return inputs in the basis of the eigenvectors, for `predict` with any ridge."""
        return (inputs - self.input_mean) @ self.vectors

    def predict(self, rotated: Float[Tensor, "n i"], ridge: float) -> Float[Tensor, "n o"]:
        """Return the predictions of the map of one ridge for inputs from `rotate`."""
        return torch.addmm(self.output_mean, rotated, self._rotated_weight(ridge))

    def weight(self, ridge: float) -> tuple[Float[Tensor, "i o"], Float[Tensor, " o"]]:
        """Return the weight and the bias of one ridge; the bias is not regularised."""
        weight = self.vectors @ self._rotated_weight(ridge)
        return weight, self.output_mean - self.input_mean @ weight

    def _rotated_weight(self, ridge: float) -> Float[Tensor, "i o"]:
        added = ridge * self.values.mean().clamp(min=torch.finfo(torch.float32).tiny)
        return self.cross / (self.values + added)[:, None]


def regress(
    features: Float[Tensor, "*p b d"], outputs: Float[Tensor, "b t"], penalty: float
) -> Float[Tensor, "*p d t"]:
    """Return the weights that minimise the squared error plus a penalty.

    The penalty is `penalty * b` times the sum of the squared weights. Many regressions with the
    same outputs are solved at once, with one ridge and without a bias.
    """
    b, d = features.shape[-2:]
    gram = features.mT @ features + penalty * b * torch.eye(d, device=features.device)
    solved: Tensor = torch.linalg.solve(gram, features.mT @ outputs)
    return solved


def _add_gram(gram: Float[Tensor, "i i"], rows: Float[Tensor, "n i"]) -> None:
    """Add the products of all columns to the upper triangle of a Gram matrix, tile by tile."""
    width = gram.shape[0]
    size = -(-width // _TILES)
    for start in range(0, width, size):
        tile = slice(start, start + size)
        gram[tile, start:].addmm_(rows[:, tile].T, rows[:, start:])
