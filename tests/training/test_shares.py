import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R
from prob3r.models.layers import Tokens
from prob3r.models.sites import Tap
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.scenes.source import Subset
from prob3r.scenes.views import stack
from prob3r.training import ProbeTraining, Progress, Stage, train_probes
from prob3r.training.processes import Processes
from prob3r.training.shares import Drawn
from tests.held import Held

SITES = ("dec2.0.cross_attn", "dec1.1.mlp", "dec2.embed")
STAGE = Stage("pointmaps", 16, pairs=32, batch=4, lr=2e-3, warmup=0)
TRAINING = ProbeTraining(STAGE, validation_pairs=4, validate_every=16)


@pytest.fixture
def pairs() -> Subset:
    """Twelve pairs, which stand for a data set on a disk."""
    return Subset(Rooms("test", (16, 16), compile=False), range(12))


def drawn(pairs: Subset, rank: int = 0, count: int = 1, seed: int = 0) -> Drawn:
    return Drawn(pairs, STAGE, seed, 4, 0, Processes(rank, count))


def bank() -> ProbeBank:
    return ProbeBank(SITES, ProbeConfig(24, 8, 2, width=16))


def test_every_epoch_shows_every_pair_that_is_not_held_out_once(pairs: Subset) -> None:
    source = drawn(pairs)
    held_out = [name for batch in source.held_out() for name in batch.names]
    epochs = [
        [name for step in steps for pair in source.share(step) for name in pair.names]
        for steps in (range(2), range(2, 4))
    ]
    assert len(held_out) == 4
    for epoch in epochs:
        assert sorted(epoch + held_out) == sorted(pairs.batch(range(12)).names)
    assert epochs[0] != epochs[1]
    assert drawn(pairs, seed=1).numbers(0) != source.numbers(0)


def test_processes_share_a_batch_and_a_step_is_the_same_whenever_it_is_asked_for(
    pairs: Subset,
) -> None:
    whole = drawn(pairs)
    parts = [drawn(pairs, rank, 3) for rank in range(3)]
    for step in (5, 0, 1, 7):
        shares = [part.numbers(step) for part in parts]
        assert sorted(n for share in shares for n in share) == sorted(whole.numbers(step))
        names = [name for pair in whole.share(step) for name in pair.names]
        assert names == [name for pair in drawn(pairs).share(step) for name in pair.names]


def test_too_few_pairs_are_one_sentence(pairs: Subset) -> None:
    with pytest.raises(Prob3rError, match=r"There are 7 pairs; 4 are held out .* give 8 at least"):
        Drawn(Subset(pairs, range(7)), STAGE, 0, 4, 0, Processes())


def test_probes_are_trained_on_pairs_that_are_read(
    model: DUSt3R, pairs: Subset, tmp_path: Path
) -> None:
    words: list[Progress] = []
    longer = replace(TRAINING, stage=replace(STAGE, pairs=96, lr=5e-3), validate_every=1)
    train_probes(model, bank(), longer, tmp_path, report=words.append, pairs=pairs)
    assert words[-1].metrics["error"] < 1.0  # that of a probe that says the origin


def test_of_pairs_that_share_views_each_is_encoded_once_and_a_stop_changes_nothing(
    model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = Rooms("test", (16, 16), compile=False).batch(range(6))
    pairs = Held(stack([rooms, rooms.swap()]))
    calls = list[int]()
    encode = model.encoder_stream

    def counted(images: Tensor, tap: Tap | None = None) -> Tokens:
        calls.append(len(images))
        return encode(images, tap)

    monkeypatch.setattr(model, "encoder_stream", counted)
    unbroken, stopped = bank(), bank()
    train_probes(model, unbroken, TRAINING, tmp_path / "unbroken", pairs=pairs)
    assert calls == [1] * 12
    for seconds in (0.0, 0.0, math.inf):
        train_probes(model, stopped, TRAINING, tmp_path / "stopped", seconds, pairs=pairs)
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(stopped.state_dict()[name], tensor)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(
    model: DUSt3R, tmp_path: Path, accumulate: int
) -> None:
    whole, parts = bank(), bank()
    train_probes(model, whole, TRAINING, tmp_path / "whole")
    train_probes(model, parts, replace(TRAINING, accumulate=accumulate), tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, atol=1e-4, rtol=0)


def test_bfloat16_ends_near_float32(model: DUSt3R, tmp_path: Path) -> None:
    full, half = list[Progress](), list[Progress]()
    train_probes(model, bank(), TRAINING, tmp_path / "full", report=full.append)
    path = train_probes(
        model, bank(), replace(TRAINING, bf16=True), tmp_path / "half", report=half.append
    )
    assert half[-1].metrics["error"] == pytest.approx(full[-1].metrics["error"], rel=0.05)
    assert half[-1].metrics["error"] != full[-1].metrics["error"]
    assert path.is_file()


def test_more_parts_than_pairs_are_one_sentence(model: DUSt3R, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="batch of 4 pairs cannot be shared by 3 processes in 2"):
        train_probes(
            model,
            bank(),
            replace(TRAINING, accumulate=2),
            tmp_path,
            processes=Processes(0, 3),
        )
