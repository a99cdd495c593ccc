"""Activations in shards: whole, resumable, and drawn in an order that the seed alone decides."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace
from prob3r.scenes.sampling import sample
from prob3r.training import activations
from prob3r.training.activations import Shards, TokenStream, record
from tests.models.joint import joint_model, scene

SITES = ("dec*.0.mlp", "dec2.1.mlp")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "SCENES", 4)
    monkeypatch.setattr(activations, "BATCH", 3)


def rooms(count: int):
    return sample(Rooms("train", (16, 16), compile=False), count)


def recorded(model: DUSt3R, folder: Path, count: int = 6) -> Shards:
    return record(model, rooms(count), SITES, folder, data="rooms:train")


def test_shards_hold_the_tokens_of_all_sites_of_a_pattern(model: DUSt3R, tmp_path: Path) -> None:
    shards = recorded(model, tmp_path)
    assert shards.sizes("dec*.0.mlp") == [4 * 2 * 4, 2 * 2 * 4]  # scenes, views, patches
    assert shards.sizes("dec2.1.mlp") == [16, 8]
    pair = Rooms("train", (16, 16), compile=False).batch([4])
    run = trace(model, pair, "dec*.0.mlp")
    expected = torch.cat([torch.Tensor(run[f"dec{v}.0.mlp"][0]) for v in (1, 2)])
    torch.testing.assert_close(shards.tokens("dec*.0.mlp", 1)[:8], expected, rtol=1e-3, atol=1e-3)


def test_recording_goes_on_with_the_shards_that_are_missing(
    model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(model, tmp_path / "a")
    recorded(model, tmp_path / "b")
    kept = (tmp_path / "b" / "00000.safetensors").stat().st_mtime_ns
    (tmp_path / "b" / "00001.safetensors").unlink()
    with pytest.raises(Prob3rError, match="1 of 2 shards"):
        Shards(tmp_path / "b")
    recorded(model, tmp_path / "b")
    assert (tmp_path / "b" / "00000.safetensors").stat().st_mtime_ns == kept
    for name in ("00000", "00001"):
        one, other = ((tmp_path / f / f"{name}.safetensors").read_bytes() for f in "ab")
        assert one == other


def test_a_folder_of_something_else_is_refused(model: DUSt3R, tmp_path: Path) -> None:
    recorded(model, tmp_path)
    with pytest.raises(Prob3rError, match="differ in their sample"):
        recorded(model, tmp_path, 5)
    with pytest.raises(Prob3rError, match="differ in their model"):
        recorded(DUSt3R(model.config), tmp_path)
    with pytest.raises(Prob3rError, match="holds no activations"):
        Shards(tmp_path / "nothing")


@pytest.mark.parametrize(("special", "tokens"), [(False, 16), (True, 17)])
def test_special_tokens_of_any_number_of_views(special: bool, tokens: int, tmp_path: Path) -> None:
    class Three:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int):
            return self.batch([index])

        def batch(self, indices):
            return scene(3, 2)[list(indices)]

    shards = record(
        joint_model(), Three(), ["dec*.0.mlp"], tmp_path, data="made up", special=special
    )
    assert shards.sizes("dec*.0.mlp") == [2 * 3 * tokens]
    assert shards.about.words == "2 scenes of 3 views of made up"


def test_large_values_are_kept_in_single_precision() -> None:
    assert activations._small(torch.tensor([[1.0]])).dtype == torch.float16
    assert activations._small(torch.tensor([[1e6]])).dtype == torch.float32


def test_moments_are_those_of_all_tokens(model: DUSt3R, tmp_path: Path) -> None:
    shards = recorded(model, tmp_path)
    every = torch.cat([shards.tokens("dec*.0.mlp", n) for n in range(2)])
    mean, covariance = shards.moments("dec*.0.mlp")
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(covariance, every.T.cov(correction=0), rtol=1e-4, atol=1e-6)


def test_batches_depend_on_the_seed_and_the_step_alone(model: DUSt3R, tmp_path: Path) -> None:
    shards = recorded(model, tmp_path)
    streams = [TokenStream(shards, "dec*.0.mlp", 8, 0, pool=16) for _ in range(2)]
    in_order = [streams[0].batch(step) for step in range(20)]
    for step in (17, 3, 19, 0):
        assert torch.equal(streams[1].batch(step), in_order[step])
    other = TokenStream(shards, "dec*.0.mlp", 8, 1)
    assert not torch.equal(other.batch(0), in_order[0])


@pytest.mark.parametrize("pool", [1, 10**6])
def test_an_epoch_shows_every_token_once(model: DUSt3R, tmp_path: Path, pool: int) -> None:
    shards = recorded(model, tmp_path)
    stream = TokenStream(shards, "dec*.0.mlp", 8, 0, pool=pool)
    every = torch.cat([shards.tokens("dec*.0.mlp", n) for n in range(2)])

    def counted(tokens: torch.Tensor) -> Counter[bytes]:
        return Counter(row.numpy().tobytes() for row in tokens)

    seen = torch.cat([stream.batch(step) for step in range(len(every) // 8)])
    assert counted(seen) == counted(every)


def test_a_batch_larger_than_the_data_is_refused(model: DUSt3R, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="fewer than a batch of 1000"):
        TokenStream(recorded(model, tmp_path), "dec2.1.mlp", 1000, 0)
