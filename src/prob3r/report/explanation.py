"""The explanation of one scene: its numbers, sentences about them, and arrays for pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prob3r.io.files import writing_to
from prob3r.measures.influence import Influence
from prob3r.measures.measurements import Measured, Measurements
from prob3r.reliability.check import Check
from prob3r.reliability.judgement import Judgement
from prob3r.reliability.strangers import Belonging
from prob3r.report.sentences import Sentence
from prob3r.scenes import Views


@dataclass(frozen=True)
class Explanation:
    """What happened to the views of one scene inside a model.

    Attributes:
        measured: All measurements of the run.
        happened: Sentences that describe the run.
        trust: Sentences on how far the output and the numbers can be trusted.
        views: The views.
        reliability: The probability that view 2's rotation is wrong; None without a calibration.
        check: The independent check of every view except view 1; empty if no check was made.
        strangers: How well every view except view 1 belongs to the scene; empty for two views.
        influence: Which patches decide where the cameras stand. Empty for an edited run; a camera
            that is not found is left out.
    """

    measured: Measured
    happened: list[Sentence]
    trust: list[Sentence]
    views: Views
    reliability: Judgement | None = None
    check: Sequence[Check] = ()
    strangers: Sequence[Belonging] = ()
    influence: Sequence[Influence] = ()

    @property
    def measurements(self) -> Measurements:
        """All numbers of the explanation."""
        return self.measured.measurements

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and the sentences, as values that JSON can hold.

        Keys:
            setting: What was explained, and with what (`measurements.Provenance`).
            final: The output of views 1 and 2 as a reconstruction (`reconstruction.Final`).
            finals: Of three or more views only: the same for each view from view 2 on.
            relations: Of three or more views only: which view attends to which, and how well the
                geometry of views agrees (`views.ViewRelations`).
            camera_path: Of models with a camera head only: the errors of the cameras that the head
                predicts at every block (`camera_path.CameraCurves`).
            against: By view and metric, what errors are measured against: `truth`, `truth, pose
                by PnP` or `final state`.
            sites: One row for each site and view, the output last: `site`, `view`, `block`,
                `sublayer`, the errors `rotation_error` and `translation_error` in degrees,
                `scale_error`, `shape_error` and `pointmap_error` as `geometry.PoseAndShape`
                defines them, and the median `confidence`.
            heads: One row for each head of the attention between views
                (`attention.HeadStatistics`); a null `head` is the mean of its block's. Rows name
                their `view` if there are more than two views.
            reliability: The probability that view 2's rotation is wrong, and how well it was
                calibrated (`reliability.judgement.Judgement`); null without a calibration.
            check: How every view except view 1 agrees with matches that were found without the
                model (`reliability.check.Check`); an empty list if no check was made.
            strangers: Of three or more views only: how well each view except view 1 belongs to the
                scene, and, with a calibration, the probability that it is of another scene
                (`reliability.strangers.Belonging`).
            influence: For each camera but the first, one row for its `rotation` and one for its
                `translation` (`measures.influence.Influence`): `camera`, `of`, `unit`, `value`,
                `shares` by view, and `maps`: by view, the effect of each patch.
            happened, trust: Sentences, each a `text` and a `tone`: `plain`, `good` or `warning`.

        Null stands for a number that cannot be measured.
        """
        judged = self.reliability
        several = {"strangers": [view.to_json() for view in self.strangers]}
        return self.measurements.to_json() | {
            "reliability": None if judged is None else judged.to_json(),
            "check": [check.to_json() for check in self.check],
            **(several if self.strangers else {}),
            "influence": [found.to_json() for found in self.influence],
            "happened": [asdict(sentence) for sentence in self.happened],
            "trust": [asdict(sentence) for sentence in self.trust],
        }


def write_json(explanation: Explanation, path: Path) -> None:
    """Write the numbers and sentences as JSON; the keys are those of `Explanation.to_json`.

    Raises:
        Prob3rError: The file cannot be written.
    """
    text = json.dumps(explanation.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    with writing_to(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
