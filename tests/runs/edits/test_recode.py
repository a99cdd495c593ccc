"""A stream that is replaced by a function of itself."""

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, Prediction
from prob3r.runs.edits import PATCHES, Recode
from prob3r.runs.replay import Replay
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.models.joint import TOKENS, joint_model, scene
from tests.runs.edits.conftest import Explicit, at, close, identical

SITE = "dec2.0.mlp"


def test_the_function_of_the_stream_is_what_the_model_goes_on_with(
    model: DUSt3R, pair: Pair, reference
) -> None:
    edit = Recode(SITE, lambda stream: 2 * stream + 1)
    expected = reference(Explicit(stream=at(SITE, lambda stream: 2 * stream + 1)))
    close(trace(model, pair, edits=[edit]).output, expected)
    close(Replay(model, pair).run([edit]).output, expected)


def test_the_identity_changes_no_bit(model: DUSt3R, pair: Pair, clean: Prediction) -> None:
    assert identical(trace(model, pair, edits=[Recode("dec*", torch.clone)]).output, clean)


def test_only_the_chosen_tokens_and_scenes_change(model: DUSt3R, pair: Pair) -> None:
    edit = Recode(SITE, torch.zeros_like, patches=[1, 4], scenes=[1])
    before, after = trace(model, pair, [SITE])[SITE], trace(model, pair, [SITE], [edit])[SITE]
    changed = (before != after).any(-1)
    assert changed.nonzero().tolist() == [[1, 1], [1, 4]]
    assert (after[1, [1, 4]] == 0).all()


def test_special_tokens_can_be_left_out_in_any_number_of_views() -> None:
    model, views = joint_model(), scene(3)
    site = "dec*.0.mlp"
    sites = [s for s in model.sites(3) if s.endswith("dec1.0.mlp") or ".0.mlp" in s]
    edit = Recode(site, torch.zeros_like, patches=PATCHES)
    run = trace(model, views, sites, [edit])
    for name in sites:
        assert run[name].shape[1] == TOKENS
        assert (run[name].patches == 0).all()
        assert (run[name].token("camera") != 0).any()


def test_two_functions_of_the_same_tokens_are_refused(model: DUSt3R, pair: Pair) -> None:
    def same(stream: Tensor) -> Tensor:
        return stream

    twice = [Recode(SITE, same), Recode(SITE, same, patches=[0])]
    with pytest.raises(Prob3rError, match="replace the same tokens"):
        trace(model, pair, edits=twice)
    apart = [Recode(SITE, same, patches=[1]), Recode(SITE, same, patches=[0])]
    trace(model, pair, edits=apart)
