"""The explanation of one scene: its numbers, the words for them, and what there is to look at."""

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
        measured: All that was measured of the run.
        happened: What the numbers say, in words.
        trust: How far that goes, in words.
        views: The views.
        reliability: The chance that view 2's rotation is wrong, if a calibration was at hand.
        check: What an independent check says of every view but the first, if one was asked for.
        strangers: How much every view but the first belongs to the scene; nothing for two views.
        influence: What in the photographs decides where the cameras stand. Nothing of an edited
            run, and nothing of a camera that is not found.
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
        """All numbers."""
        return self.measured.measurements

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and the words, as JSON can hold them.

        Keys:
            setting: What was explained, and with what (`measurements.Setting`).
            final: The output of views 1 and 2 as a reconstruction (`reconstruction.Final`).
            finals: Of three or more views only: the same for each view from view 2 on.
            relations: Of three or more views only: who attends to whom, and whose geometry fits
                whose (`views.ViewRelations`).
            camera_path: Of models with a camera head only: how far it is, at every block, from
                where it should be in the end (`camera_path.CameraCurves`).
            against: By view and metric, what errors are measured against: `truth`, `truth, pose
                by PnP` or `final state`.
            sites: One row for each site and view, the output last: `site`, `view`, `block`,
                `sublayer`, the errors `rotation_error` and `translation_error` in degrees,
                `scale_error`, `shape_error` and `pointmap_error` as `geometry.PoseAndShape`
                defines them, and the median `confidence`.
            heads: One row for each head of the attention between views (`attention.Head`); a null
                `head` is the mean of its block's. Rows name their `view` if there are more than
                two views.
            reliability: The chance that view 2's rotation is wrong and what that is worth
                (`reliability.judgement.Judgement`); null without a calibration.
            check: What matches that are found without the model say of every view but the first
                (`reliability.check.Check`); an empty list if no check was made.
            strangers: Of three or more views only: how much each view but the first belongs to the
                scene, and with a calibration how likely it is of another one
                (`reliability.strangers.Belonging`).
            influence: For each camera but the first, one row for its `rotation` and one for its
                `translation` (`measures.influence.Influence`): `camera`, `of`, `unit`, `value`,
                `shares` by view, and `maps`: by view, the effect of each patch.
            happened, trust: Sentences, each a `text` and a `tone`: `plain`, `good` or `warning`.

        Null stands for what there is no number for.
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
    """Write an explanation's numbers and words; the keys are those of `Explanation.to_json`.

    Raises:
        Prob3rError: The file cannot be written.
    """
    text = json.dumps(explanation.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    with writing_to(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
