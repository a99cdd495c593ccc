"""Studies that prepare themselves on few scenes, for tests that ask only whether they run."""

import pytest

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
    """Let studies prepare themselves on few scenes, and train probes for so many steps."""
    for name, value in FEW.items():
        monkeypatch.setattr(f"prob3r.studies.{name}", value)
    for name in ("perceptrons", "refine"):
        monkeypatch.setattr(f"prob3r.probes.{name}.STEPS", steps)
    monkeypatch.setattr("prob3r.probes.settings.HELD_PAIRS", 4)
