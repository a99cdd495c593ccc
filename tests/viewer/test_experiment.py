import numpy as np
import pytest
import torch

from prob3r import trace
from prob3r.errors import Prob3rError
from prob3r.reliability.matchers import SIFT
from prob3r.report.sentences import Sentence
from prob3r.runs.edits import HeadAblation, Knockout, Skip
from prob3r.scenes import Pair, stack
from prob3r.viewer import experiment as module
from prob3r.viewer.attention import Pin
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.tables import sentences
from tests.viewer.conftest import probed_of

EDITS = [
    [HeadAblation("dec2.1.cross_attn", heads=[1])],
    [Skip("dec1.2.mlp"), Knockout("dec2.2.self_attn", keys=[3])],
    [Skip("enc2.0.mlp")],
]


@pytest.mark.parametrize("edits", [[], *EDITS])
def test_a_run_is_what_a_trace_from_scratch_decodes_to(experiment: Experiment, edits: list) -> None:
    run = experiment.run(edits)
    sites = [step.site(view) for step in experiment.steps[:-1] for view in (1, 2)]
    whole = trace(experiment.probed.model, experiment.views, sites, edits)
    assert whole.output is not None
    for i, step in enumerate(experiment.steps):
        both = whole.output.points
        if step.sublayer != "output":
            bank = experiment.probed.bank
            both = tuple(bank.decode(whole[step.site(view)]).points for view in (1, 2))
        for shown, points in zip(run.points, experiment.reference.normalise(both), strict=True):
            np.testing.assert_allclose(shown[i], points[0].numpy(), atol=2e-4, rtol=1e-3)
    np.testing.assert_allclose(run.confidence[1], whole.output.confidence[1][0].numpy(), rtol=1e-4)


def test_what_comes_before_an_edit_stays_the_same(experiment: Experiment) -> None:
    run = experiment.run(EDITS[0])
    changed = experiment.steps.index(
        next(s for s in experiment.steps if s[:2] == (1, "cross_attn"))
    )
    for name, curve in run.curves[2].items():
        clean = experiment.clean.curves[2][name]
        np.testing.assert_array_equal(curve[:changed], clean[:changed])
        assert curve.shape == clean.shape
    assert not np.allclose(run.points[1][changed], experiment.clean.points[1][changed])


def test_attention_is_that_of_the_edited_run(experiment: Experiment) -> None:
    found = experiment.attention(Pin(2, 7), [Knockout("dec2.1.cross_attn", keys=[5])])
    (second,) = found.patches.values()
    assert second.shape == (3, 3, 36)
    np.testing.assert_allclose(second[1, :, 5], 0, atol=1e-6)
    np.testing.assert_allclose(second.sum(-1), 1, atol=1e-4)
    probs = trace(experiment.probed.model, experiment.views, "dec2.0.cross_attn.probs")
    whole = torch.Tensor(probs["dec2.0.cross_attn.probs"])[0, :, 7]
    np.testing.assert_allclose(second[0, :2], whole.numpy(), rtol=1e-5)


def test_an_independent_check_is_made_once_and_told_in_words(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = experiment.check(SIFT)
    assert "An independent check (SIFT)" in said[0].text
    assert "the only evidence" in said[-1].text
    monkeypatch.setattr(module, "check_output", None)
    assert experiment.check(SIFT) is said
    assert "An independent check (SIFT)" in sentences(said)
    warned = sentences([Sentence("a < b", "warning")])
    assert "<b>a &lt; b</b>" in warned


def test_large_views_are_drawn_at_fewer_pixels(
    probed: ProbedModel, room: Pair, monkeypatch
) -> None:
    monkeypatch.setattr(module, "SHOWN_PIXELS", 600)
    thin = Experiment(probed, room)
    assert thin.stride == 2
    assert thin.clean.points[0].shape == (len(thin.steps), 24, 24, 3)
    assert thin.clean.confidence[1].shape == (24, 24)
    assert thin.truth is not None
    assert thin.truth[0].shape == (24, 24, 3)


def test_probes_of_another_model_and_batches_are_refused(probed: ProbedModel, room: Pair) -> None:
    with pytest.raises(Prob3rError, match="trained on"):
        ProbedModel("mixed", probed.model, probed_of(1).bank)
    with pytest.raises(Prob3rError, match="batch of 2"):
        Experiment(probed, stack([room, room]))
