from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, PosedDUSt3R, load, metadata, save
from prob3r.models.sites import Tap
from prob3r.scenes import Pair
from prob3r.training import Progress, Recipe, Stage, train_backbone
from prob3r.training.attention import DirectAttention
from prob3r.training.backbone import _BackboneTask
from prob3r.training.optim import Muon
from prob3r.training.pairs import Pointmaps
from prob3r.training.processes import Processes
from prob3r.training.stream import Stream
from tests.training.conftest import CONFIG

COMPLETION = Stage("completion", 16, pairs=16, batch=4, lr=2e-3, warmup=0)
POINTMAPS = Stage("pointmaps", 16, pairs=16, batch=4, lr=2e-3, warmup=0, decay=0.5)
RECIPE = Recipe("small", 0, CONFIG, (COMPLETION, POINTMAPS), validate_every=8, validation_pairs=4)


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 8)
    monkeypatch.setattr("prob3r.training.backbone.Stream", partial(Stream, chunk=8))


def state(folder: Path) -> dict[str, Tensor]:
    """The weights that a run ended with, those of its head for completion among them."""
    weights: dict[str, Tensor] = torch.load(folder / "state.pt", weights_only=True)["model"]
    return weights


def best(folder: Path) -> dict[str, Tensor]:
    return load(folder / "small.safetensors").state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_ends_where_an_unbroken_one_ends(tmp_path: Path, optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer)  # type: ignore[arg-type]
    words: list[Progress] = []
    path = train_backbone(recipe, tmp_path / "unbroken", report=words.append)
    assert path == tmp_path / "unbroken" / "small.safetensors"
    assert [(word.stage, word.pairs) for word in words] == [(0, 8), (0, 16), (1, 8), (1, 16)]

    def killed(progress: Progress) -> None:
        raise Killed

    for _ in range(3):
        train_backbone(recipe, tmp_path / "stopped", seconds=0.0)
    with pytest.raises(Killed):
        train_backbone(recipe, tmp_path / "stopped", report=killed)
    train_backbone(recipe, tmp_path / "stopped")
    assert same(state(tmp_path / "stopped"), state(tmp_path / "unbroken"))
    assert same(best(tmp_path / "stopped"), best(tmp_path / "unbroken"))


def test_photographs_symmetric_steps_in_parts_and_bfloat16_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.training.backbone.has_bfloat16", lambda device: True)
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (40, 30), (200, 90, 10)).save(tmp_path / "photographs" / "a.png")
    how = {"batch": 8, "parts": 2, "everyday": 0.5, "symmetric": True}
    stages = tuple(replace(stage, **how) for stage in RECIPE.stages)
    recipe = replace(RECIPE, stages=stages, bf16=True, optimizer="muon")
    train_backbone(recipe, tmp_path / "run", photographs=tmp_path / "photographs")
    weights = state(tmp_path / "run")
    assert all(weight.isfinite().all() for weight in weights.values())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert (
        "everyday_rotation_error" in metadata(tmp_path / "run" / "small.safetensors")["validation"]
    )


@pytest.mark.parametrize("has", [False, True])
def test_products_are_in_bfloat16_only_on_hardware_that_computes_in_it(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.training.backbone.has_bfloat16", lambda device: has)
    task = _BackboneTask(replace(RECIPE, bf16=True, optimizer="muon"), Path(), Processes())
    (muon,) = [each for each in task.optimizers if isinstance(each, Muon)]
    assert (task.bf16, muon.dtype) == (has, torch.bfloat16 if has else torch.float32)
    assert not _BackboneTask(RECIPE, Path(), Processes()).bf16


def test_the_parts_of_a_batch_add_up_to_it() -> None:
    """Both ways round of a pair are in one part, and each pair is in one part."""
    stage = replace(POINTMAPS, batch=8, symmetric=True)
    whole = _BackboneTask(replace(RECIPE, stages=(stage,)), Path(), Processes())
    split = replace(RECIPE, stages=(replace(stage, parts=2),))
    parts = _BackboneTask(split, Path(), Processes())
    losses = []
    for task in (whole, parts):
        task.begin(0)
        losses.append([loss.item() for loss in task.losses(0)])
    assert [len(found) for found in losses] == [1, 2]
    assert sum(losses[1]) == pytest.approx(losses[0][0], rel=0.05)


def test_a_symmetric_step_encodes_as_an_ordinary_one() -> None:
    stage = replace(POINTMAPS, batch=8, symmetric=True)
    task = _BackboneTask(replace(RECIPE, stages=(stage,)), Path(), Processes())
    task.begin(0)
    pair = task.stream.batch(0)
    objective = task.objective
    assert isinstance(objective, Pointmaps)
    assert isinstance(pair, Pair)
    assert isinstance(task.model, DUSt3R)
    found = objective.encode(pair)
    for tokens, view in zip(found, (pair.view1, pair.view2), strict=True):
        torch.testing.assert_close(tokens.stream, task.model.encode(view.image).stream)


def test_attention_written_out_is_attention() -> None:
    queries, keys, values = torch.randn(3, 2, 4, 5, 8).unbind()
    wanted = Tap().attend("", queries, keys, values)
    torch.testing.assert_close(DirectAttention().attend("", queries, keys, values), wanted)


def test_the_seed_decides_the_run(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(replace(POINTMAPS, pairs=8),))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_backbone(replace(recipe, seed=seed), tmp_path / name)
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))
    assert not same(state(tmp_path / "a"), state(tmp_path / "c"))


def test_both_decoders_start_from_the_one_that_completed(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(COMPLETION,))
    train_backbone(recipe, tmp_path)
    weights = state(tmp_path)
    for name, weight in weights.items():
        twin = name.replace("dec_blocks.", "dec_blocks2.")
        assert torch.equal(weight, weights[twin]), name
    torch.manual_seed(0)
    fresh = DUSt3R(CONFIG).state_dict()
    moved = "dec_blocks.0.cross_attn.projq.weight"
    assert not torch.equal(fresh[moved], weights[f"backbone.{moved}"])


def test_best_weights_count_at_the_last_size_alone(tmp_path: Path) -> None:
    """At the smaller size the first stage may be better, but it is not what ships."""
    larger = replace(POINTMAPS, size=24, pairs=8)
    recipe = replace(RECIPE, stages=(replace(POINTMAPS, pairs=8), larger))
    seen: list[bool] = []
    path = tmp_path / "small.safetensors"
    train_backbone(recipe, tmp_path, report=lambda _: seen.append(path.exists()))
    assert seen == [False, True]
    card = metadata(path)
    assert card["name"] == "small"
    assert set(card["validation"]) == {
        "pointmap_error1",
        "pointmap_error2",
        "rotation_error",
        "translation_error",
        "shuffled_rotation_error",
    }


def test_the_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train_backbone(RECIPE, tmp_path, seconds=0.0)
    for other in (replace(RECIPE, seed=1), replace(RECIPE, model=replace(CONFIG, dec_depth=1))):
        with pytest.raises(Prob3rError, match=r"state\.pt belongs to 'small, seed 0"):
            train_backbone(other, tmp_path)


def test_weights_are_kept_along_the_way(tmp_path: Path) -> None:
    train_backbone(replace(RECIPE, keep_every=8), tmp_path)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == [f"small-{stage}-{pairs}.safetensors" for stage in (0, 1) for pairs in (16, 8)]
    last = load(tmp_path / "kept" / "small-1-16.safetensors").state_dict()
    final = state(tmp_path)
    assert all(torch.equal(weight, final[f"backbone.{name}"]) for name, weight in last.items())
    first = load(tmp_path / "kept" / "small-1-8.safetensors").state_dict()
    assert not same(first, last)


def test_a_run_can_start_from_a_models_weights_and_carry_a_pose(
    model: DUSt3R, tmp_path: Path
) -> None:
    save(model, tmp_path / "start.safetensors")
    still = replace(POINTMAPS, lr=1e-12)
    recipe = replace(RECIPE, stages=(still,), start=str(tmp_path / "start.safetensors"))
    train_backbone(recipe, tmp_path / "plain")
    assert all(
        torch.allclose(weight, model.state_dict()[name], atol=1e-6)
        for name, weight in best(tmp_path / "plain").items()
    )
    train_backbone(replace(recipe, architecture="posed-dust3r"), tmp_path / "posed")
    posed = load(tmp_path / "posed" / "small.safetensors")
    assert isinstance(posed, PosedDUSt3R)
    twin = model.downstream_head1.state_dict()
    assert all(
        torch.allclose(weight, twin[name], atol=1e-6)
        for name, weight in posed.downstream_head2.state_dict().items()
    )
    wider = replace(recipe, model=replace(CONFIG, dec_width=48))
    with pytest.raises(Prob3rError, match="another shape"):
        train_backbone(wider, tmp_path / "wider")
