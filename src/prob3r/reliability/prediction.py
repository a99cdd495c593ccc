"""Binary prediction from numbers: logistic regression, AUROC, and calibration."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.geometry.metrics import DRAWS
from prob3r.measures.statistics import interval

FOLDS = 5  # of cross-fitting
FEWEST = FOLDS
"""Fewest positive outcomes, and fewest negative outcomes, that can be fitted and measured."""

RIDGE = 1.0  # on standardised columns: a prior of unit variance on each weight
BINS = 10  # of a reliability diagram


class Logistic(NamedTuple):
    """A logistic regression on standardised columns with weights that are not negative.

    Attributes:
        mean: Mean of each column over the fitted rows.
        spread: Standard deviation of each column.
        low: Least value of each column. Smaller values are replaced by it, because the fit has
            seen no data there.
        high: Greatest value of each column. Larger values are replaced by it.
        weights: Log odds for each standard deviation of a column; not negative.
        bias: Log odds of a row of means.
    """

    mean: Float[Tensor, " s"]
    spread: Float[Tensor, " s"]
    low: Float[Tensor, " s"]
    high: Float[Tensor, " s"]
    weights: Float[Tensor, " s"]
    bias: Float[Tensor, ""]

    def parts(self, rows: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
        """Return what each column adds to a row's log odds, relative to a row of means."""
        known = rows.nan_to_num(torch.inf).clamp(self.low, self.high)
        return self.weights * (known - self.mean) / self.spread

    def beyond(self, rows: Float[Tensor, "n s"]) -> Bool[Tensor, "n s"]:
        """Return a mask of the numbers that are outside the range of the fitted rows."""
        return (rows < self.low) | (rows > self.high)

    def probability(self, rows: Float[Tensor, "n s"]) -> Float[Tensor, " n"]:
        """Return the probability of a positive outcome for each row; NaN counts as the highest."""
        return (self.parts(rows).sum(1) + self.bias).sigmoid()


def fit_logistic(
    rows: Float[Tensor, "n s"], outcome: Bool[Tensor, " n"], ridge: float = RIDGE
) -> Logistic:
    """Fit a logistic regression with a ridge penalty and weights that are not negative.

    The loss `sum log(1 + exp(-y x)) + ridge / 2 * |weights|^2` is minimised by L-BFGS in float64;
    the bias has no penalty. The weights are squares of free numbers, so a larger value of a column
    never makes a positive outcome less likely. With two correlated columns, neither can get a
    negative weight to correct the other, so the contribution of each column can be interpreted.

    Args:
        rows: One row a pair. Rows with a number that is not finite are left out.
        outcome: The outcome of each row.
        ridge: Weight of the penalty.
    """
    finite = rows.isfinite().all(1)
    rows, target = rows[finite].double(), outcome[finite].double()
    mean, spread = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-9)
    x = (rows - mean) / spread
    with torch.enable_grad():
        # At zero, the gradient of a square is zero; so the optimisation starts at one.
        roots = torch.ones(rows.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
        bias = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [roots, bias], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            weights = roots.square()
            misfit = F.binary_cross_entropy_with_logits(x @ weights + bias, target, reduction="sum")
            total = misfit + ridge / 2 * weights.square().sum()
            total.backward()
            return total

        optimizer.step(loss)
    return Logistic(
        mean, spread, rows.amin(0), rows.amax(0), roots.detach().square(), bias.detach()
    )


def measurable(outcome: Bool[Tensor, " n"]) -> bool:
    """Return whether there are enough positive and enough negative outcomes for a fit."""
    return FEWEST <= int(outcome.sum()) <= len(outcome) - FEWEST


def cross_fitted(
    rows: Float[Tensor, "n s"], outcome: Bool[Tensor, " n"], folds: int = FOLDS
) -> Float[Tensor, " n"]:
    """Return the probability of a positive outcome for each row, by a fit on the other folds.

    The folds are contiguous parts of the rows, so that neighbours, which may show one scene, are in
    one fold.
    """
    found = torch.empty(len(rows), dtype=torch.double, device=rows.device)
    for held_out in torch.arange(len(rows), device=rows.device).tensor_split(folds):
        rest = torch.ones_like(outcome)
        rest[held_out] = False
        fit = fit_logistic(rows[rest], outcome[rest])
        found[held_out] = fit.probability(rows[held_out].double())
    return found


def auroc(scores: Float[Tensor, " n"], outcome: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return how often a positive outcome has the higher score than a negative one, from 0 to 1.

    A tie counts half. This is the area under the ROC curve (Mann and Whitney, 1947). It is NaN if
    all outcomes are equal.
    """
    return _won(scores, outcome).mean()


def auroc_draws(
    scores: Float[Tensor, " n"],
    outcome: Bool[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " draws"]:
    """Return bootstrap draws of the `auroc`. The same rows are drawn for any scores.

    Args:
        scores: The score of each row.
        outcome: The outcome of each row.
        groups: The group of each row, such as the scene of a view. All rows of a group are drawn
            together. By default each row is a group.
    """
    groups = torch.arange(len(scores)) if groups is None else groups.unique(return_inverse=True)[1]
    drawn = redrawn(int(groups.max()) + 1)
    often = torch.zeros(drawn.shape, dtype=torch.double)
    often.scatter_add_(1, drawn, torch.ones_like(often))
    often = often[:, groups]
    yes, no = often[:, outcome], often[:, ~outcome]
    won = ((yes @ _won(scores, outcome)) * no).sum(1)
    return won / (yes.sum(1) * no.sum(1))


def _won(scores: Float[Tensor, " n"], outcome: Bool[Tensor, " n"]) -> Float[Tensor, "yes no"]:
    """Return 1 where a positive outcome scores above a negative one, 1/2 for a tie, else 0."""
    scores = scores.double()
    return ((scores[outcome][:, None] - scores[~outcome]).sign() + 1) / 2


def redrawn(n: int, seed: int = 0) -> Int[Tensor, "draws {n}"]:
    """Return row numbers drawn with replacement; with one seed, bootstraps share their draws."""
    return torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(seed))


def auroc_interval(
    scores: Float[Tensor, " n"],
    outcome: Bool[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
) -> Interval:
    """Return the `auroc` with its 95 % bootstrap interval over rows, or over `groups`.

    The scores are fixed: nothing is fitted again in a resample.
    """
    return interval(auroc(scores, outcome), auroc_draws(scores, outcome, groups))


def risk_coverage(
    doubt: Float[Tensor, "*b n"], failed: Shaped[Tensor, "*#b n"]
) -> Float[Tensor, "*b n"]:
    """Return the share of failures among the 1, 2, ..., n pairs with the least doubt.

    Pairs with equal doubt keep their order.
    """
    order = doubt.argsort(dim=-1, stable=True)
    kept = failed.to(doubt).expand(doubt.shape).gather(-1, order)
    return kept.cumsum(-1) / torch.arange(1, doubt.shape[-1] + 1, device=doubt.device)


class Bin(NamedTuple):
    """The pairs whose predicted probability is between `low` and `high`.

    Attributes:
        low: Lower end, included.
        high: Upper end, not included unless it is 1.
        pairs: Number of pairs.
        failed: Number of these pairs that failed.
        stated: Mean of their predicted probabilities; NaN without a pair.
    """

    low: float
    high: float
    pairs: int
    failed: int
    stated: float


def calibration_bins(
    probability: Float[Tensor, " n"], failed: Bool[Tensor, " n"], bins: int = BINS
) -> list[Bin]:
    """Return the bins of a reliability diagram. They have equal width, from 0 to 1."""
    place = bin_of(probability, bins)
    found = []
    for k in range(bins):
        here = place == k
        stated = float(probability[here].mean())
        found.append(
            Bin(k / bins, (k + 1) / bins, int(here.sum()), int(failed[here].sum()), stated)
        )
    return found


def bin_of(probability: Float[Tensor, "*n"], bins: int = BINS) -> Shaped[Tensor, "*n"]:
    """Return the number of the bin that holds a probability."""
    return (probability * bins).long().clamp(0, bins - 1)


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error.

    It is the mean over bins, weighted by their pairs, of `|share of failures - mean probability|`
    (Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015).
    """
    used = [found for found in bins if found.pairs]
    gaps = sum(abs(found.failed - found.pairs * found.stated) for found in used)
    return gaps / sum(found.pairs for found in used)
