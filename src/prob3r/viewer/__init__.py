"""The live viewer: one scene inside a model, in a browser, to be taken apart by hand."""

from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.server import Viewer
from prob3r.viewer.session import Session

__all__ = ["Experiment", "ProbedModel", "Session", "Viewer"]
