"""The explanation of one pair: its numbers, the words for them, and what there is to look at."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import PatchMatches
from prob3r.io.files import written
from prob3r.reliability.calibration import Judgement
from prob3r.report.attention import Strongest
from prob3r.report.measurements import Measurements
from prob3r.report.reference import Points, Reference
from prob3r.report.sentences import Sentence
from prob3r.scenes import Pair


@dataclass(frozen=True)
class Explanation:
    """What happened to one pair inside a model.

    Lengths are in the pair's unit, its mean distance to camera 1, and everything is in camera 1's
    frame.

    Attributes:
        measurements: All numbers.
        happened: What they say, in words.
        trust: How far that goes, in words.
        pair: The pair.
        reference: What the curves are measured against.
        points: Both views' pointmaps at every step, each step in its own unit; the output last.
        confidence: Both views' confidence in the output.
        cameras: Pose of camera 2 at every step, as the pointmap states it relative to the
            reference.
        focal: Of both views in x and y, in pixels.
        matches: View 2's matches in view 1 by the output's own pointmaps.
        attention: The most attended keys of view 1's queries, and of view 2's.
        reliability: The chance that view 2's rotation is wrong, if a calibration was at hand.
    """

    measurements: Measurements
    happened: list[Sentence]
    trust: list[Sentence]
    pair: Pair
    reference: Reference
    points: list[Points]
    confidence: tuple[Float[Tensor, "1 _h _w"], ...]
    cameras: Float[Tensor, "steps 4 4"]
    focal: Float[Tensor, "2 2"]
    matches: PatchMatches
    attention: tuple[Strongest, Strongest]
    reliability: Judgement | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and the words, as JSON can hold them.

        Keys:
            setting: What was explained, and with what (`measurements.Setting`).
            final: The output as a reconstruction (`measurements.Final`).
            against: By view and metric, what errors are measured against: `truth`, `truth, pose
                by PnP` or `final state`.
            sites: One row for each site and view, the output last: `site`, `view`, `block`,
                `sublayer`, the errors `rotation_error` and `translation_error` in degrees,
                `scale_error`, `inner_shape_error` and `pointmap_error` as `claims` defines them,
                and the median `confidence`.
            heads: One row for each head of view 2's cross-attention (`attention.Head`); a null
                `head` is the mean of its block's.
            reliability: The chance that view 2's rotation is wrong and what that is worth
                (`studies.calibration.Judgement`); null without a calibration.
            happened, trust: Sentences, each a `text` and a `tone`: `plain`, `good` or `warning`.

        Null stands for what there is no number for.
        """
        judged = self.reliability
        return self.measurements.to_json() | {
            "reliability": None if judged is None else judged.to_json(),
            "happened": [asdict(sentence) for sentence in self.happened],
            "trust": [asdict(sentence) for sentence in self.trust],
        }


def write_json(explanation: Explanation, path: Path) -> None:
    """Write an explanation's numbers and words; the keys are those of `Explanation.to_json`.

    Raises:
        Prob3rError: The file cannot be written.
    """
    text = json.dumps(explanation.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    with written(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
