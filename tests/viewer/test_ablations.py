import pytest
import torch

from prob3r import trace
from prob3r.errors import Prob3rError
from prob3r.viewer import ablations
from prob3r.viewer.ablations import BLOCK, EVERY, HEAD, MODES, SINKS, SUBLAYER, Ablation, python
from prob3r.viewer.experiment import Experiment
from tests.viewer.conftest import Given

ABLATIONS = [
    *(Ablation(HEAD, mode, 1, head=1) for mode in MODES[HEAD]),
    Ablation(HEAD, "zero", 0, view=EVERY, sublayer="self_attn"),
    *(Ablation(SINKS, mode, 2) for mode in MODES[SINKS]),
    Ablation(SUBLAYER, "skip", 1, view=1, sublayer="mlp"),
    Ablation(BLOCK, "skip", 1, view=EVERY),
]


@pytest.mark.parametrize(
    "ablation", ABLATIONS, ids=lambda ablation: f"{ablation.kind} {ablation.mode}"
)
def test_the_python_does_what_the_viewer_does(
    ablation: Ablation, experiment: Experiment, room, monkeypatch
) -> None:
    monkeypatch.setattr("prob3r.measures.tokens.SINK", 1.05)  # a random model has no real sinks
    monkeypatch.setattr(ablations, "_SINKS", ablations._SINKS.replace("> 5", "> 1.05"))
    monkeypatch.setattr("prob3r.load", lambda name: experiment.probed.model)
    model, pair = experiment.probed.model, experiment.views
    ours = trace(model, pair, "dec2.*", ablation.edits(model, pair)).output
    told: dict = {}
    text = python([ablation], model, 2, "mini", Given(room).python)
    exec(compile(text, "told", "exec"), told)
    assert ours is not None
    assert torch.equal(told["points"][1], ours.points[1])
    clean = trace(model, pair, "dec2.*").output
    assert clean is not None
    assert not torch.equal(ours.points[1], clean.points[1])


def test_cuts_are_named_with_their_mode() -> None:
    words = "head 1 of block 1's cross-attention, view 2 (zero)"
    assert ABLATIONS[0].words == words
    assert ABLATIONS[-1].words == "block 1, all views (skip)"


def test_no_sinks_and_no_such_cut_are_said(experiment: Experiment, monkeypatch) -> None:
    monkeypatch.setattr("prob3r.measures.tokens.SINK", 1000.0)
    model, pair = experiment.probed.model, experiment.views
    with pytest.raises(Prob3rError, match="has no sinks"):
        Ablation(SINKS, "mask", 0).edits(model, pair)
    with pytest.raises(Prob3rError, match="cannot be switched off by"):
        Ablation(HEAD, "skip", 0)
    with pytest.raises(Prob3rError, match="no heads"):
        Ablation(HEAD, "zero", 0, sublayer="mlp")
