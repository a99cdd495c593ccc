"""Special tokens and the patches against them, cut in several ways."""

import pytest
import torch

from prob3r.measures.tokens import CHOSEN, COUNT, MASS
from prob3r.models import MultiViewModel
from prob3r.rooms import Rooms
from prob3r.runs.edits import token
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import Views
from prob3r.studies.cuts.tokens import (
    MEAN,
    RESAMPLE,
    ZERO,
    ChosenTokens,
    Sources,
    chosen_tokens,
    donated_by,
    isolated,
    means_of,
    patches_against,
    replaced,
    run_of,
    special_tokens,
    swapped,
)
from tests.models.examples import EXAMPLES

ENDS = ("dec1.1.global_mlp", "dec2.1.global_mlp", "dec3.1.global_mlp")


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return EXAMPLES["vggt"]()


@pytest.fixture(scope="module")
def scenes() -> Views:
    return Rooms("test", (28, 28), compile=False, views=3).batch([0, 1])


@pytest.fixture(scope="module")
def run(model: MultiViewModel, scenes: Views) -> Trace:
    return run_of(model, scenes)


@pytest.fixture(scope="module")
def camera(model: MultiViewModel, scenes: Views) -> ChosenTokens:
    return chosen_tokens(model, scenes, token("camera"))


def test_special_tokens_are_those_of_the_trunk_by_view() -> None:
    assert special_tokens(EXAMPLES["vggt"](), 3) == {
        name: [1, 2, 3] for name in ("camera", "register0", "register1")
    }
    assert special_tokens(EXAMPLES["posed-dust3r"](), 2) == {"camera": [2]}
    assert special_tokens(EXAMPLES["dust3r"](), 2) == {}


def test_patches_against_a_token_are_as_many_or_hold_as_much_attention(
    model: MultiViewModel, scenes: Views, run: Trace, camera: ChosenTokens
) -> None:
    found = patches_against(model, scenes, run, camera)
    assert set(found) == {CHOSEN, COUNT, MASS}
    for view in range(3):
        assert found[CHOSEN][view].nonzero()[:, 1].tolist() == [0, 0]
        assert found[COUNT][view].sum(1).tolist() == [1, 1]
        assert not found[COUNT][view][:, :3].any()
        assert not found[MASS][view][:, :3].any()
    keys = [
        torch.Tensor(run[name]).mean(1).split(7, -1)  # 3 special tokens and 4 patches a view
        for name in run
        if name.endswith("global_attn.mass")
    ]
    own = [torch.Tensor(run[name]).mean(1) for name in run if name.endswith("2.0.self_attn.mass")]
    own += [torch.Tensor(run[name]).mean(1) for name in run if name.endswith("2.1.self_attn.mass")]
    mass = torch.stack([*(parts[1] for parts in keys), *own]).mean(0)
    held = (mass * found[MASS][1]).sum(1)
    assert ((held >= mass[:, 0]) | found[MASS][1][:, 3:].all(1)).all()


def test_isolated_tokens_reach_nothing_and_nothing_reaches_them(
    model: MultiViewModel, scenes: Views, camera: ChosenTokens
) -> None:
    """Other photographs change nothing of them, and other tokens in their place nothing else."""
    edits = isolated(model, camera)
    cut, elsewhere = (
        trace(model, shown, ENDS, edits)
        for shown in (scenes, scenes.map(lambda tensor: tensor.flip(0)))
    )
    assert torch.equal(cut[ENDS[1]][:, 0], elsewhere[ENDS[1]][:, 0])
    assert not torch.allclose(cut[ENDS[1]][:, 3:], elsewhere[ENDS[1]][:, 3:])
    other = EXAMPLES["vggt"]()
    with torch.no_grad():
        other.aggregator.camera_token += 1  # type: ignore[operator, union-attr]
    changed = trace(other, scenes, ENDS, isolated(other, camera))
    torch.testing.assert_close(
        torch.Tensor(changed[ENDS[0]])[:, 1:], torch.Tensor(cut[ENDS[0]])[:, 1:]
    )


def test_replaced_tokens_hold_what_their_mode_says(
    model: MultiViewModel, scenes: Views, run: Trace, camera: ChosenTokens
) -> None:
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    sources = Sources(means_of(model, rooms, 8), donated_by(scenes, run))
    held = {
        mode: torch.Tensor(
            trace(model, scenes, ENDS, replaced(model, camera, mode, sources, scenes))[ENDS[2]]
        )[:, 0]
        for mode in (ZERO, MEAN, RESAMPLE)
    }
    assert not held[ZERO].any()
    torch.testing.assert_close(held[MEAN][0], sources.means.values[ENDS[2]][0][0])
    assert torch.equal(held[RESAMPLE], torch.Tensor(run[ENDS[2]])[[1, 0], 0])
    assert sources.means.scenes == 64


def test_without_another_scene_nothing_is_swapped_or_resampled(
    model: MultiViewModel, scenes: Views, run: Trace, camera: ChosenTokens
) -> None:
    alone = scenes.named(scenes=("one", "one"))
    sources = Sources(
        means_of(model, Rooms("test", (28, 28), compile=False, views=3), 8), donated_by(alone, run)
    )
    assert replaced(model, camera, RESAMPLE, sources, alone) == []
    assert swapped(model, camera, 0, sources.donated) == []


def test_a_token_swapped_in_the_last_block_takes_the_stated_cameras_along(
    model: MultiViewModel, scenes: Views, run: Trace, camera: ChosenTokens
) -> None:
    edits = swapped(model, camera, 1, donated_by(scenes, run))
    clean, output = trace(model, scenes).output, trace(model, scenes, edits=edits).output
    assert clean is not None
    assert output is not None
    assert clean.cameras is not None
    assert output.cameras is not None
    torch.testing.assert_close(
        output.cameras.cam_to_world, clean.cameras.cam_to_world[[1, 0]], rtol=1e-4, atol=1e-4
    )
