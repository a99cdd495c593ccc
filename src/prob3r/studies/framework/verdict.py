"""Verdicts: what a rule says of an interval, and the finding that reports it."""

from dataclasses import dataclass
from typing import Literal

import torch

from prob3r.geometry import Interval

Verdict = Literal["supported", "not supported", "mixed"]

NOT_MEASURABLE = Interval(torch.nan, torch.nan, torch.nan)
"""The effect of a question for which there is nothing to measure."""


@dataclass(frozen=True)
class Finding:
    """One answer, and what it rests on.

    Attributes:
        claim: Number of the claim, such as `C1`.
        statement: What was asked, as a statement that can be false.
        verdict: By the rule in the study's docstring.
        effect: The number that the verdict rests on.
        low: Lower end of its 95 % bootstrap interval over pairs.
        high: Upper end.
        unit: Of the three.
        control: What the controls did.
        pairs: How many pairs it rests on.
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


def decide(supported: bool, refuted: bool) -> Verdict:
    """Return the verdict of a rule: `mixed` where neither of its conditions holds.

    Args:
        supported: Whether the condition for *supported* holds; it is asked first.
        refuted: Whether the condition for *not supported* holds.
    """
    return "supported" if supported else "not supported" if refuted else "mixed"


def is_above_zero(effect: Interval) -> Verdict:
    """Return the verdict on *this effect is above zero*, by an interval that excludes zero."""
    return decide(effect.low > 0, effect.high < 0)


def is_below_zero(effect: Interval) -> Verdict:
    """Return the verdict on *this effect is below zero*, by an interval that excludes zero."""
    return decide(effect.high < 0, effect.low > 0)
