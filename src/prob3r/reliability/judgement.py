"""What a calibration says of one pair."""

from dataclasses import asdict, dataclass
from typing import Any

from prob3r.geometry import Interval
from prob3r.io.files import to_json
from prob3r.reliability.prediction import Bin


@dataclass(frozen=True)
class Reading:
    """What one signal says of a pair.

    Attributes:
        signal: Its name in `signals.SIGNALS`.
        value: As `signals.read_signals` defines it.
        usual: Its mean over the pairs of the calibration; a geometric one where ratios count.
        log_odds: What it adds to the log odds of a wrong outcome, relative to the usual value.
        beyond: Whether the value lies outside of all that the calibration saw.
    """

    signal: str
    value: float
    usual: float
    log_odds: float
    beyond: bool


@dataclass(frozen=True)
class Judgement:
    """The chance that a pair's rotation is wrong, and what that is worth.

    Attributes:
        probability: Of a rotation error above `degrees`.
        degrees: Of rotation error.
        readings: Of every signal.
        held_out: The held-out pairs that were given about the same probability.
        data: The pairs of the calibration.
        pairs: How many.
        failed: How many of them were wrong.
        auroc: Of such probabilities, with its 95 % bootstrap interval over held-out pairs.
        confidence_auroc: The same for the model's own confidence alone.
        calibration_error: Expected calibration error over held-out pairs.
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
        """Return what the attributes say, as JSON can hold it."""
        named = {"held_out": self.held_out._asdict()}
        return dict(to_json(asdict(self) | named))
