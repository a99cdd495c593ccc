"""Studies: measurements on many pairs or scenes, each with its controls and a verdict.

A study is a subclass of `Study` with a `name`, in any file of this folder. It is found by itself.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from prob3r.studies.evaluation import evaluate
from prob3r.studies.framework.conduct import Result, conduct, leave_out
from prob3r.studies.framework.sharing import fetch_results, push_results
from prob3r.studies.framework.study import Study, load_study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from prob3r.studies.page import write_findings
from prob3r.studies.scene_evaluation import evaluate_scenes

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

STUDIES: Mapping[str, type[Study[Any]]] = {
    study.name: study
    for study in sorted(Study.registry.values(), key=lambda study: (study.place, study.name))
    if study.__module__.startswith(f"{__name__}.")
}
"""Every study of this folder by its name, in the order in which they are reported."""

__all__ = [
    "STUDIES",
    "Finding",
    "LackingError",
    "ModelUnderTest",
    "Result",
    "Study",
    "conduct",
    "evaluate",
    "evaluate_scenes",
    "fetch_results",
    "leave_out",
    "load_study",
    "push_results",
    "write_findings",
]
