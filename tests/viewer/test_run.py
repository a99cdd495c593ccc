import numpy as np
import pytest
import torch

from prob3r.measures.reference import Reference
from prob3r.viewer import run as module
from prob3r.viewer.experiment import Experiment
from prob3r.viewer.run import PairSteps, measure, thinned


@pytest.fixture
def steps(experiment: Experiment) -> PairSteps:
    clean = experiment.clean
    return PairSteps(*(torch.from_numpy(points).float() for points in clean.points))


def test_many_steps_are_measured_as_each_alone(experiment: Experiment, steps: PairSteps) -> None:
    errors, poses = measure(steps, experiment.reference)
    for i in (0, 4, len(steps.first) - 1):
        _, alone = experiment.reference.errors((steps.first[i : i + 1], steps.second[i : i + 1]))
        for name in ("rotation_error", "translation_error", "shape_error"):
            torch.testing.assert_close(
                errors[name][i], getattr(alone, name)[0], atol=2e-3, rtol=1e-3
            )
        torch.testing.assert_close(errors["pointmap_error"][i], alone.pointmap_error2[0])
        fit = experiment.reference.fit(steps.second[i : i + 1], 2)
        torch.testing.assert_close(poses[i, :3, :3], fit.rotation[0], atol=1e-3, rtol=0)


def test_a_step_that_is_not_finite_has_no_numbers(experiment: Experiment, steps: PairSteps) -> None:
    second = steps.second.clone()
    second[1] = torch.nan
    errors, _ = measure(PairSteps(steps.first, second), experiment.reference)
    assert errors["rotation_error"].isnan().tolist()[:3] == [False, True, False]


def test_what_is_thinned_stays_in_place(experiment: Experiment, monkeypatch) -> None:
    monkeypatch.setattr(module, "MEASURED_PIXELS", 300)
    reference, pick = thinned(experiment.reference)
    assert isinstance(reference, Reference)
    assert reference.points[0].shape[1:3] == (16, 16)
    assert torch.equal(reference.points[1], experiment.reference.points[1][:, pick, pick])


def test_between_two_steps_points_go_straight_and_cameras_turn(experiment: Experiment) -> None:
    clean = experiment.clean
    last = len(clean.steps) - 1
    for position in (0.0, 2.25, float(last)):
        first, share = clean.between(position)
        for view, points in enumerate(clean.at(position)):
            after = clean.points[view][min(first + 1, last)]
            expected = (1 - share) * clean.points[view][first] + share * after
            np.testing.assert_allclose(points, expected, rtol=1e-5)
        rotation = clean.cameras(position)[1, :3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(clean.cameras(last + 7.0), clean.poses[-1])
