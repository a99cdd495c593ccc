"""Studies: measurements over many pairs, each with its controls and a verdict."""

from collections.abc import Mapping

from prob3r.studies.correspondence import Correspondence
from prob3r.studies.evaluation import evaluate
from prob3r.studies.lookalikes import LookAlikes
from prob3r.studies.page import write_findings
from prob3r.studies.refinement import Refinement
from prob3r.studies.roles import Roles
from prob3r.studies.study import Finding, Result, Study, Subject, conduct

STUDIES: Mapping[str, type[Study]] = {
    study.name: study for study in (Refinement, Roles, Correspondence, LookAlikes)
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
    "write_findings",
]
