"""Predicting a yes or no from numbers: a fit, how well it ranks, and whether it can be believed."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prob3r.geometry import Interval
from prob3r.geometry.metrics import DRAWS
from prob3r.measures.statistics import interval

FOLDS = 5
FEWEST = FOLDS
"""With fewer outcomes of a kind nothing can be told."""

RIDGE = 1.0  # on standardised columns: a prior of unit variance on each weight
BINS = 10


class Logistic(NamedTuple):
    """A logistic regression on standardised columns, none of which speaks against a yes.

    Attributes:
        mean: Of each column, over what it was fitted on.
        spread: Standard deviation of each column.
        low: Least value of each column. A value beyond counts as this one: the fit has seen
            nothing of what lies there.
        high: Greatest value of each column.
        weights: In log odds for each standard deviation; not negative.
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
        """Return which numbers lie outside of all that the fit saw."""
        return (rows < self.low) | (rows > self.high)

    def probability(self, rows: Float[Tensor, "n s"]) -> Float[Tensor, " n"]:
        """Return the probability of a yes for each row."""
        return (self.parts(rows).sum(1) + self.bias).sigmoid()


def fit_logistic(
    rows: Float[Tensor, "n s"], outcome: Bool[Tensor, " n"], ridge: float = RIDGE
) -> Logistic:
    """Return the logistic regression with the greatest likelihood less the ridge.

    The loss `sum log(1 + exp(-y x)) + ridge / 2 * |weights|^2`, the bias being free, is minimised
    by L-BFGS in double precision over weights that are squares. So more of a column never makes a
    yes less likely: of two columns that say much the same, none can count backwards to correct
    the other, and what each adds can be read.

    Args:
        rows: One a pair. Those with a number that is not finite are left out.
        outcome: The yes or no of each row.
        ridge: Pull towards weights of zero.
    """
    finite = rows.isfinite().all(1)
    rows, target = rows[finite].double(), outcome[finite].double()
    mean, spread = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-9)
    x = (rows - mean) / spread
    with torch.enable_grad():
        # A weight of zero has no slope to leave it by, so all start away from it.
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
    """Return whether there are enough yeses, and enough noes, to tell apart."""
    return FEWEST <= int(outcome.sum()) <= len(outcome) - FEWEST


def cross_fitted(
    rows: Float[Tensor, "n s"], outcome: Bool[Tensor, " n"], folds: int = FOLDS
) -> Float[Tensor, " n"]:
    """Return the probability of a yes for each row, by a fit that never saw it.

    Fold `k` of `folds` is the `k`-th stretch of rows, so that neighbours, which may show one scene,
    are in one fold.
    """
    found = torch.empty(len(rows), dtype=torch.double, device=rows.device)
    for held_out in torch.arange(len(rows), device=rows.device).tensor_split(folds):
        rest = torch.ones_like(outcome)
        rest[held_out] = False
        fit = fit_logistic(rows[rest], outcome[rest])
        found[held_out] = fit.probability(rows[held_out].double())
    return found


def auroc(scores: Float[Tensor, " n"], outcome: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return how often a yes scores higher than a no, from 0 to 1; a tie counts half.

    It is the area under the curve of hits over false alarms (Mann and Whitney, 1947), and NaN where
    there is no yes, or no no.
    """
    return _won(scores, outcome).mean()


def auroc_draws(
    scores: Float[Tensor, " n"],
    outcome: Bool[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " draws"]:
    """Return the `auroc` over pairs drawn with replacement, the same for any scores.

    Args:
        scores: Of what is told apart.
        outcome: The yes or no of each.
        groups: What belongs together and is drawn together, such as the scene of a view. By
            default each is drawn by itself.
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
    """Return 1 where a yes scores higher than a no, one half where they tie, and else 0."""
    scores = scores.double()
    return ((scores[outcome][:, None] - scores[~outcome]).sign() + 1) / 2


def redrawn(n: int, seed: int = 0) -> Int[Tensor, "draws {n}"]:
    """Return the numbers of pairs drawn with replacement, for bootstraps that share their draws."""
    return torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(seed))


def auroc_interval(
    scores: Float[Tensor, " n"],
    outcome: Bool[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
) -> Interval:
    """Return the `auroc` with its 95 % bootstrap interval over pairs, or over `groups`.

    What was cross-fitted is not fitted again.
    """
    return interval(auroc(scores, outcome), auroc_draws(scores, outcome, groups))


def risk_coverage(
    doubt: Float[Tensor, "*b n"], failed: Shaped[Tensor, "*#b n"]
) -> Float[Tensor, "*b n"]:
    """Return the share of failures among the 1, 2, ..., n pairs of least doubt.

    Ties come in their order.
    """
    order = doubt.argsort(dim=-1, stable=True)
    kept = failed.to(doubt).expand(doubt.shape).gather(-1, order)
    return kept.cumsum(-1) / torch.arange(1, doubt.shape[-1] + 1, device=doubt.device)


class Bin(NamedTuple):
    """The pairs whose stated probability lies from `low` to `high`.

    Attributes:
        low: Included.
        high: Not included, except for 1.
        pairs: How many there are.
        failed: How many of them failed.
        stated: The mean of the stated probabilities; NaN without any pair.
    """

    low: float
    high: float
    pairs: int
    failed: int
    stated: float


def calibration_bins(
    probability: Float[Tensor, " n"], failed: Bool[Tensor, " n"], bins: int = BINS
) -> list[Bin]:
    """Return a reliability diagram's bins, equally wide from 0 to 1."""
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
    """Return the expected calibration error, the mean over pairs of `|failed - stated|` by bin.

    After Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI
    2015.
    """
    used = [found for found in bins if found.pairs]
    gaps = sum(abs(found.failed - found.pairs * found.stated) for found in used)
    return gaps / sum(found.pairs for found in used)
