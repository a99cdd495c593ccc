"""Attribution: the first-order effect of every part of a model on a scalar, from one gradient."""

from prob3r.runs.attribution.baselines import AnotherRun, Baseline, DataMean, TokenMean, Zero
from prob3r.runs.attribution.gradients import attribute, one_run
from prob3r.runs.attribution.result import Attribution, Measure, Part, Scalar

__all__ = [
    "AnotherRun",
    "Attribution",
    "Baseline",
    "DataMean",
    "Measure",
    "Part",
    "Scalar",
    "TokenMean",
    "Zero",
    "attribute",
    "one_run",
]
