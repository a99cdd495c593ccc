"""Training of dictionaries: a planted one is found again, and stopping changes nothing."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prob3r.models import DUSt3R, write_tensors
from prob3r.probes.dictionary import Dictionary, DictionaryShape
from prob3r.training import loop
from prob3r.training.activations import Shards
from prob3r.training.dictionary import DictionaryTraining, _Task, train_dictionary

SITE = "dec2.1.mlp"
WIDTH, PLANTED, ACTIVE = 24, 40, 3


def planted(folder: Path, count: int = 20_000) -> Tensor:
    """Write tokens that are sums of a few of 40 planted atoms; return the atoms."""
    generator = torch.Generator().manual_seed(0)
    atoms = F.normalize(torch.randn(PLANTED, WIDTH, generator=generator), dim=-1)
    chosen = torch.rand(count, PLANTED, generator=generator).topk(ACTIVE).indices
    sizes = 1 + torch.rand(count, ACTIVE, generator=generator)
    codes = torch.zeros(count, PLANTED).scatter(1, chosen, sizes)
    folder.mkdir(parents=True)
    write_tensors(folder / "00000.safetensors", {SITE: 5 * codes @ atoms + 2}, {})
    about = {
        "model": "planted",
        "sites": [SITE],
        "data": "made up",
        "sample": "",
        "scenes": 1,
        "views": 2,
    }
    (folder / "shards.json").write_text(json.dumps(about))
    return atoms


def test_a_planted_dictionary_is_recovered(model: DUSt3R, tmp_path: Path) -> None:
    atoms = planted(tmp_path / "shards")
    training = DictionaryTraining(64, ACTIVE, 300_000, 256, 3e-3, dead=5_000)
    shards = Shards(tmp_path / "shards")
    path = train_dictionary(model, shards, SITE, training, tmp_path / "out")
    found = Dictionary.load(path)
    assert found.shape.backbone == "planted"
    closest = (atoms @ found.directions.T).amax(1)
    assert closest.median() > 0.95
    assert (closest > 0.9).float().mean() > 0.75
    tokens = shards.tokens(SITE, 0)
    spread = (tokens - tokens.mean(0)).square().sum()
    left = (found.reconstruct(tokens) - tokens).square().sum() / spread
    principal = found.controls()["first"].reconstruct(tokens)
    assert left < 0.1
    assert left < 0.2 * (principal - tokens).square().sum() / spread


def test_stopping_and_going_on_ends_in_the_same_dictionary(
    model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(tmp_path / "shards", 2_000)
    shards = Shards(tmp_path / "shards")
    training = DictionaryTraining(48, ACTIVE, 12_800, 256, dead=1_000)
    whole = train_dictionary(model, shards, SITE, training, tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    for _ in range(60):
        broken = train_dictionary(model, shards, SITE, training, tmp_path / "broken", seconds=-1.0)
        if broken.exists():
            break
    assert whole.read_bytes() == broken.read_bytes()


def test_dead_atoms_come_back(tmp_path: Path) -> None:
    planted(tmp_path / "shards", 5_000)
    shards = Shards(tmp_path / "shards")
    dead = {}
    for patience in (1_000, 10**9):
        dictionary = Dictionary.drawn(DictionaryShape(SITE, WIDTH, 64, ACTIVE))
        with torch.no_grad():
            dictionary.encoder[:, 32:] *= 1e-3  # half of the atoms never win
        training = DictionaryTraining(64, ACTIVE, 60_000, 250, 3e-3, dead=patience)
        task = _Task(dictionary, shards, training, tmp_path / "d.safetensors")
        loop.run(task, tmp_path / f"run{patience}")
        codes = dictionary.encode(shards.tokens(SITE, 0))
        dead[patience] = int((codes > 0).any(0).logical_not().sum())
    assert dead[1_000] < 0.8 * dead[10**9]
