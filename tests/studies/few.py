"""Studies that prepare themselves on few scenes, for tests that ask only whether they run."""

from functools import partial

import pytest

from prob3r.geometry import align_robust

FEW = {
    "cuts.tokens.MEAN_SCENES": 2,
    "dictionaries.CHOOSING": 4,
    "evaluation.MEAN_POSE_PAIRS": 2,
    "matching_heads.CHOSEN_ON": 2,
    "middle_blocks.MEAN_SCENES": 2,
    "pose.SINK_PAIRS": 2,
    "pose_probes.FITTED": 8,
    "pose_probes.HELD_OUT": 8,
    "pose_probes.SINK_ROOMS": 2,
    "readable.SCENES": 24,
    "roles.EXAMPLE_AMONG": 2,
    "sinks.SINK_PAIRS": 2,
}
"""Numbers of scenes, by the names of constants in `prob3r.studies`."""


def prepare_on_few(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let studies prepare on few scenes and fit poses in one step, and probes in so many."""
    for name, value in FEW.items():
        monkeypatch.setattr(f"prob3r.studies.{name}", value)
    for name in ("perceptrons", "refine"):
        monkeypatch.setattr(f"prob3r.probes.{name}.STEPS", steps)
    monkeypatch.setattr("prob3r.probes.settings.HELD_PAIRS", 4)
    fit_poses_at_once(monkeypatch)


def fit_poses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let robust fits of poses take one step in place of 20."""
    fit = partial(align_robust, iterations=1)
    monkeypatch.setattr("prob3r.geometry.pose.align_robust", fit)
