from dataclasses import replace
from pathlib import Path

import pytest

from prob3r.errors import Prob3rError
from prob3r.training import Recipe, Stage, recipes

PLAIN = Stage("pointmaps", size=16, pairs=100, batch=10, lr=0.1, warmup=0)

GOOD = """
name = "small"
seed = 3
optimizer = "muon"

[model]
image_size = [16, 32]
patch = 8
enc_width = 16
enc_depth = 1
enc_heads = 2
dec_width = 24
dec_depth = 2
dec_heads = 2

[[stages]]
objective = "completion"
size = 16
pairs = 64
batch = 8
lr = 1

[[stages]]
objective = "pointmaps"
size = 16
pairs = 65
batch = 8
lr = 2e-3
decay = 0.5
"""


def recipe(tmp_path: Path, old: str = "", new: str = "") -> Path:
    assert old in GOOD
    path = tmp_path / "small.toml"
    path.write_text(GOOD.replace(old, new, 1) if old else GOOD + new)
    return path


def test_the_learning_rate_rises_stays_and_falls() -> None:
    stage = replace(PLAIN, warmup=40, decay=0.4)
    rates = [stage.lr_at(step) for step in range(10)]
    by_hand = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025]
    assert rates == pytest.approx(by_hand)


def test_the_learning_rate_is_level_without_warmup_and_decay() -> None:
    assert {PLAIN.lr_at(step) for step in range(10)} == {0.1}


def test_the_penalty_goes_from_its_start_to_its_end() -> None:
    stage = replace(PLAIN, own_penalty=(8.0, 3.0))
    assert [stage.own_penalty_at(step) for step in (0, 2, 10)] == [8.0, 7.0, 3.0]


def test_a_last_step_that_is_not_full_counts() -> None:
    assert replace(PLAIN, pairs=101).steps == 11
    assert PLAIN.steps == 10


def test_the_pool_opens_from_the_easy_pairs_to_all() -> None:
    stage = replace(PLAIN, pool_start=0.2, pool_open=0.5)
    shares = [stage.pool_at(step) for step in range(0, 10)]
    assert shares == pytest.approx([0.2, 0.36, 0.52, 0.68, 0.84, 1, 1, 1, 1, 1])
    assert {PLAIN.pool_at(step) for step in range(10)} == {1.0}


def test_a_recipe_is_read(tmp_path: Path) -> None:
    read = Recipe.read(recipe(tmp_path))
    assert (read.name, read.seed, read.start, read.optimizer) == ("small", 3, "", "muon")
    assert read.model.image_size == (16, 32)
    assert [stage.objective for stage in read.stages] == ["completion", "pointmaps"]
    assert read.stages[1] == Stage("pointmaps", 16, 65, 8, 2e-3, decay=0.5)
    assert Recipe.read(str(recipe(tmp_path))) == read


@pytest.mark.parametrize("name", recipes())
def test_shipped_recipes_are_read_by_name(name: str) -> None:
    read = Recipe.read(name)
    assert read.name == name
    sizes = {stage.size for stage in read.stages}
    assert all(size % read.model.patch == 0 for size in sizes)
    assert read.model.image_size == (read.stages[-1].size,) * 2


def test_a_recipe_names_its_architecture(tmp_path: Path) -> None:
    assert Recipe.read(recipe(tmp_path)).architecture == "dust3r"
    older = Recipe.read(recipe(tmp_path, "seed = 3", "seed = 3\nposed = true"))
    newer = 'seed = 3\narchitecture = "posed-dust3r"'
    assert older == Recipe.read(recipe(tmp_path, "seed = 3", newer))
    many = Recipe.read("mini-vggt")
    assert many.architecture == "vggt"
    assert many.stages[-1].views == (2, 3, 4, 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"views": (2, 5)}, "must be 2 or more, and divide the 8 photographs"),
        ({"views": (1, 2)}, "must be 2 or more"),
        ({"views": ()}, "must be 2 or more"),
        ({"views": (8,), "parts": 2}, "divide the 4 photographs of a part"),
        ({"symmetric": True}, "only stages of pairs"),
    ],
)
def test_views_must_fill_a_part_of_a_step(changes: dict[str, object], said: str) -> None:
    stage = Stage("many-views", 16, 8, 4, 1e-3, views=(2, 4))
    with pytest.raises(Prob3rError, match=said):
        replace(stage, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["nothing", "nothing.toml", ".", ""])
def test_a_missing_recipe_is_named(source: str) -> None:
    with pytest.raises(Prob3rError, match=f"'{source}' is no recipe: .* one of .*mini"):
        Recipe.read(source)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 3", "seed = ", "Invalid value"),
        ("seed = 3", "", "'seed' is missing"),
        ("seed = 3", "speed = 3\nseed = 3", "unknown key 'speed'"),
        ("seed = 3", 'seed = "three"', "seed is 'three'"),
        ('optimizer = "muon"', 'optimizer = "sgd"', "optimizer is 'sgd'"),
        ("pairs = 64", "", "'pairs' is missing"),
        ("pairs = 64", 'pairs = "many"', "pairs is 'many'"),
        ("pairs = 64", "pairs = 0", "pairs is 0; it must be positive"),
        ("pairs = 64", "pairs = 64\npool_start = 0", "pool_start is 0.0; it must be positive"),
        ("pairs = 64", "pairs = 64\ndecay = 1.5", r"decay is 1.5; it must be from 0 to 1"),
        ("pairs = 64", "pairs = 64\nlr_max = 1", "unknown key 'lr_max'"),
        ("batch = 8", "batch = 7", "batch is 7 in 1 parts; each part must be even"),
        ("batch = 8", "batch = 8\nparts = 3", "batch is 8 in 3 parts; each part must be even"),
        ("pairs = 64", "pairs = 64\neveryday = 2", "everyday is 2.0; it must be from 0 to 1"),
        ("lr = 1", "lr = nan", "lr is nan; it must be positive"),
        ('"completion"', '"guessing"', "objective is 'guessing'; it must be 'completion' or"),
        ("patch = 8", "patch = 0", "patch is 0; it must be positive"),
        ("patch = 8", "patches = 8", "patches is not known of a DUSt3R"),
        (
            "seed = 3",
            'seed = 3\narchitecture = "nerf"',
            "architecture is 'nerf'; it must be .*'dust3r' or",
        ),
        ("seed = 3", 'seed = 3\narchitecture = "vggt"', "enc_width is not known of a VGGT"),
        (
            "pairs = 64",
            "pairs = 64\nown_penalty = [1]",
            "own_penalty is .1.0.; it must be two numbers",
        ),
        ("pairs = 64", "pairs = 64\nown_penalty = [1, -1]", "two numbers that are not negative"),
        ("pairs = 64", "pairs = 64\nown_penalty = 1", "own_penalty is 1; it must be a list of num"),
        ("pairs = 64", 'pairs = 64\nlearns = "*"', "learns is '.'; it must be a list of names"),
        ("pairs = 64", "pairs = 64\nviews = 3", "views is 3; it must be"),
        ("pairs = 64", 'pairs = 64\nviews = ["two"]', "views is .*a list of whole numbers"),
        ("pairs = 64", "pairs = 64\nviews = [2, 3]", r"views is \[2, 3\]; completion takes pairs"),
        ("[model]", "[shape]", r"it needs a \[model\]"),
        ("[model]", "[[model]]", r"it needs a \[model\]"),
    ],
)
def test_a_bad_recipe_ends_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = recipe(tmp_path, old, new)
    with pytest.raises(Prob3rError, match=said) as caught:
        Recipe.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert not message.endswith("..")
    assert "\n" not in message


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"stages = 3", b"stages = [1]", b"stages = []\nmodel = 3"]
)
def test_a_file_that_is_no_recipe_ends_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small.toml"
    path.write_bytes(content)
    with pytest.raises(Prob3rError, match=r"small\.toml cannot be read: ") as caught:
        Recipe.read(path)
    assert "\n" not in str(caught.value)
