import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.errors import Prob3rError
from prob3r.studies.origins.checkpoints import (
    CheckpointName,
    checkpoint_name,
    counted_from,
    onset,
    pairs_seen,
)


@pytest.mark.parametrize(
    "name", ["mini", "mini-matched", "mini-1", "mini-1-x", "-1-2", "mini-1-2 "]
)
def test_other_names_are_not_of_weights_along_training(name: str) -> None:
    assert checkpoint_name(name) is None


def test_a_name_says_the_training_the_stage_and_the_pairs() -> None:
    assert checkpoint_name("mini-1-8192") == CheckpointName("mini", 1, 8192)
    assert checkpoint_name("mini-matched-2-16") == CheckpointName("mini-matched", 2, 16)


def test_pairs_of_earlier_stages_count() -> None:
    names = ["m-2-8", "m-1-9", "m-1-10", "other", "m-0-100", "m-1-30"]
    seen = pairs_seen(names)
    assert list(seen.items()) == [
        ("m-0-100", 100),
        ("m-1-9", 109),
        ("m-1-10", 110),
        ("m-1-30", 130),
        ("m-2-8", 138),
    ]
    assert counted_from(names) == ""


def test_without_the_first_stages_pairs_count_from_the_first_there_is() -> None:
    assert pairs_seen(["m-2-8", "m-1-30"]) == {"m-1-30": 30, "m-2-8": 38}
    assert counted_from(["m-2-8", "m-1-30"]) == " from stage 1 on"
    assert pairs_seen(["variant"]) == {}


def test_weights_that_make_no_one_training_are_refused() -> None:
    with pytest.raises(Prob3rError, match="of a and b; give those of one training"):
        pairs_seen(["b-0-1", "a-0-1"])
    with pytest.raises(Prob3rError, match="of stages 0, 2 alone; give the last of every stage"):
        pairs_seen(["a-2-1", "a-0-1"])


@given(st.lists(st.booleans(), min_size=1, max_size=7))
def test_a_state_sets_in_where_it_begins_to_last(state: list[bool]) -> None:
    seen = torch.arange(len(state)).double() + 10
    found = onset(torch.tensor(state), seen)
    lasts = [i for i in range(len(state)) if all(state[i:])]
    assert found == seen[lasts[0]] if lasts else found.isnan()
    both = onset(torch.tensor([state, [True] * len(state)]), seen)
    assert torch.equal(both[:1].nan_to_num(-1), found[None].nan_to_num(-1))
    assert both[1] == 10
