"""The live viewer: explore a model on one scene in the browser, and switch its parts off."""

from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.server import Viewer
from prob3r.viewer.session import Session

__all__ = ["Experiment", "ProbedModel", "Session", "Viewer"]
