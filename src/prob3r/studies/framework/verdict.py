"""Verdicts of rules on intervals, and the findings that report them."""

from dataclasses import dataclass
from typing import Literal

import torch

from prob3r.geometry import Interval

Verdict = Literal["supported", "not supported", "mixed"]

NOT_MEASURABLE = Interval(torch.nan, torch.nan, torch.nan)
"""The effect of a finding that cannot be measured."""


@dataclass(frozen=True)
class Finding:
    """One answer of a study, with its evidence.

    Attributes:
        claim: Number of the claim, such as `C1`.
        statement: The question, as a statement that can be false.
        verdict: The verdict by the rule in the study's docstring.
        effect: The number on which the verdict is based.
        low: Lower end of its 95 % bootstrap interval over pairs.
        high: Upper end of that interval.
        unit: Unit of the effect and its interval.
        control: Results of the controls, in words.
        pairs: Number of pairs.
    """

    claim: str
    statement: str
    verdict: Verdict
    effect: float
    low: float
    high: float
    unit: str
    control: str
    pairs: int


def not_measurable(claim: str, statement: str, unit: str, why: str, pairs: int) -> Finding:
    """Return the finding on a question for which there is nothing to measure.

    Args:
        claim: Number of the claim.
        statement: What was asked.
        unit: Of the effect that was to be measured.
        why: Why there is nothing to measure.
        pairs: How many pairs were looked at.
    """
    return Finding(claim, statement, "mixed", *NOT_MEASURABLE, unit, why, pairs)


def decide(supported: bool, refuted: bool) -> Verdict:
    """Return the verdict of a rule: `mixed` if neither of its conditions holds.

    Args:
        supported: Whether the condition for *supported* holds; it takes precedence.
        refuted: Whether the condition for *not supported* holds.
    """
    return "supported" if supported else "not supported" if refuted else "mixed"


def is_above_zero(effect: Interval) -> Verdict:
    """Return the verdict on *this effect is above zero*, by an interval that excludes zero."""
    return decide(effect.low > 0, effect.high < 0)


def is_below_zero(effect: Interval) -> Verdict:
    """Return the verdict on *this effect is below zero*, by an interval that excludes zero."""
    return decide(effect.high < 0, effect.low > 0)
