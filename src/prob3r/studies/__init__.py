"""Studies: measurements over many pairs, each with its controls and a verdict."""

from collections.abc import Mapping

from prob3r.studies.correspondence import Correspondence
from prob3r.studies.evaluation import evaluate
from prob3r.studies.fixed import FixedCorrespondences
from prob3r.studies.lookalikes import LookAlikes
from prob3r.studies.origins import Origins
from prob3r.studies.page import write_findings
from prob3r.studies.pose import Pose
from prob3r.studies.pose_probes import PoseProbes
from prob3r.studies.refinement import Refinement
from prob3r.studies.reliability import Reliability
from prob3r.studies.roles import Roles
from prob3r.studies.sharing import fetch_results, push_results
from prob3r.studies.study import Finding, Result, Study, Subject, conduct

STUDIES: Mapping[str, type[Study]] = {
    study.name: study
    for study in (
        Refinement,
        Roles,
        Pose,
        PoseProbes,
        Correspondence,
        LookAlikes,
        Origins,
        FixedCorrespondences,
        Reliability,
    )
}
"""Every study by its name, in the order in which they are reported."""

__all__ = [
    "STUDIES",
    "Finding",
    "Result",
    "Study",
    "Subject",
    "conduct",
    "evaluate",
    "fetch_results",
    "push_results",
    "write_findings",
]
