"""The result of applying a calibration to one pair."""

from dataclasses import asdict, dataclass
from typing import Any

from prob3r.geometry import Interval
from prob3r.io.files import to_json
from prob3r.reliability.prediction import Bin


@dataclass(frozen=True)
class Reading:
    """The value of one signal for a pair, and its effect on the probability.

    Attributes:
        signal: Name of the signal in `signals.EVERY_SIGNAL`.
        value: The value, as `signals.read_signals` and `check.signals_of` define it.
        usual: Mean over the pairs of the calibration; the geometric mean if the signal is
            logarithmic.
        log_odds: What the signal adds to the log odds of a wrong output, relative to the usual
            value.
        beyond: Whether the value is outside the range of the calibration's pairs.
    """

    signal: str
    value: float
    usual: float
    log_odds: float
    beyond: bool


@dataclass(frozen=True)
class Judgement:
    """The probability that a pair's rotation is wrong, and how reliable this probability is.

    Attributes:
        probability: Probability of a rotation error above `degrees`.
        degrees: Rotation error above which an output counts as wrong, in degrees.
        readings: The readings of all signals.
        held_out: The held-out pairs with a similar probability.
        data: Name of the calibration's pairs.
        pairs: Number of these pairs.
        failed: Number of these pairs with a wrong output.
        auroc: AUROC of such probabilities on held-out pairs, with its 95 % bootstrap interval.
        confidence_auroc: The same for the model's own confidence only.
        calibration_error: Expected calibration error on held-out pairs.
    """

    probability: float
    degrees: float
    readings: list[Reading]
    held_out: Bin
    data: str
    pairs: int
    failed: int
    auroc: Interval
    confidence_auroc: Interval
    calibration_error: float

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as values that fit JSON."""
        named = {"held_out": self.held_out._asdict()}
        return dict(to_json(asdict(self) | named))
