"""What runs on an accelerator keeps to it, though there is none here: see `accelerator`."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from prob3r.models import DUSt3R, DUSt3RConfig, PosedDUSt3R, fingerprint, random
from prob3r.probes import Lens, SiteReader
from prob3r.probes.dictionary import Dictionary, DictionaryShape, file_name
from prob3r.report import explain
from prob3r.runs.edits import head_means
from prob3r.runs.encoded import encoding_once
from prob3r.runs.sweep import sweep_heads
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from prob3r.scenes.several import open_views
from prob3r.scenes.source import Scenes, open_pairs
from prob3r.scenes.views import Views
from prob3r.studies import STUDIES, LackingError, ModelUnderTest
from prob3r.studies.dictionaries import Dictionaries
from prob3r.studies.evaluation import evaluate
from prob3r.training.probes import bank_for, clip_rows, record_streams, site_errors, site_losses
from tests.accelerator import Remote, accelerator
from tests.models.examples import VGGT_CONFIG
from tests.studies.few import prepare_on_few

CONFIG = DUSt3RConfig((16, 16), 8, 16, 1, 2, 16, 2, 2)
SEVERAL = replace(VGGT_CONFIG, depth=3)

Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture(scope="module")
def here() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture
def device() -> Iterator[str]:
    with accelerator() as name:
        yield name


@pytest.fixture
def model(here: DUSt3R, device: str) -> DUSt3R:
    return moved(here, device)


@pytest.fixture
def pair(here: DUSt3R, device: str) -> Pair:
    return open_pairs("rooms:test", here).batch([0, 1]).to(device)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_on_few(monkeypatch, steps=2)


def moved(module: Module, device: str) -> Module:
    """A copy of a module on a device."""
    return deepcopy(module).to(device)


def reader(model: DUSt3R, kind: str, device: str) -> SiteReader:
    return moved(bank_for(model, kind)[1], device)


def test_tensors_of_both_devices_do_not_meet(device: str) -> None:
    """Else the other tests could not fail."""
    one, two = torch.ones(2, device=device), torch.ones(2)
    assert isinstance(one, Remote)
    assert (one + two.to(device)).tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="tensors of both devices"):
        one + two
    with pytest.raises(RuntimeError, match="tensors of both devices"):
        two[one > 0]
    with pytest.raises(RuntimeError, match="generator of the CPU"):
        torch.rand(2, device=device, generator=torch.Generator())
    with pytest.raises(RuntimeError):
        one.numpy()


@pytest.mark.parametrize("name", STUDIES)
def test_studies(here: DUSt3R, model: DUSt3R, device: str, name: str, tmp_path: Path) -> None:
    banks = {kind: reader(here, kind, device) for kind in ("mlp", "random", "encoder")}
    names = ["a-0-8", "a-0-16", "a-1-8"] if name == "origins" else []
    references = {name: moved(random(CONFIG, seed), device) for seed, name in enumerate(names)}
    references["mini-vggt"] = moved(PosedDUSt3R.from_twin(here), device)
    tested = ModelUnderTest(model, "m", banks, moved(random(CONFIG, 0), device), references)
    study = STUDIES[name]()
    if isinstance(study, Dictionaries):
        study.folder = tmp_path
        for seed in (None, 0):
            backbone = fingerprint(here if seed is None else random(CONFIG, seed))
            made = Dictionary.drawn(DictionaryShape("dec*.1.mlp", 16, 32, 4, False, backbone, seed))
            made.save(tmp_path / file_name(made.shape))
    scenes: Scenes[Views] = open_pairs(study.data or "rooms:test", here)
    try:
        study.choose_views(tested.model)
        study.check(tested)
    except LackingError:  # several views, special tokens, or cameras that the model states
        tested = ModelUnderTest(moved(random(SEVERAL, seed=1), device), "m")
        study.choose_views(tested.model, 3)
        study.check(tested)
        scenes = open_views("rooms:test", tested.model, 3)
    with torch.no_grad():
        study.prepare(tested, scenes)
        table = study.measure(tested, scenes.batch([0, 1]).to(device))
    assert set(table.pair.dropna()) == {0, 1}


def test_evaluation(here: DUSt3R, model: DUSt3R, device: str) -> None:
    readers = [reader(here, "mlp", device), Lens.of(model)]
    table = evaluate(model, open_pairs("rooms:test", here, device), 2, readers)
    assert {"model", "logit", "shuffled", "random"} <= set(table.source)


def test_sweeps(model: DUSt3R, pair: Pair) -> None:
    modes = ("zero", "mean", "resample")
    table = sweep_heads(model, iter([pair]), "dec2.*", modes, head_means(model, iter([pair])))
    assert set(table["mode"]) == set(modes)


def test_explanations(here: DUSt3R, model: DUSt3R, pair: Pair, device: str) -> None:
    bank = reader(here, "mlp", device)
    explanation = explain(model, pair[0], bank, model_name="m")
    assert explanation.to_json()["sites"]


@pytest.mark.parametrize("kind", ["mlp", "tuned"])
def test_a_step_of_probe_training(here: DUSt3R, pair: Pair, device: str, kind: str) -> None:
    def gradients(where: str) -> list[Tensor]:
        backbone, bank = bank_for(moved(here, where), kind)
        there = pair.to(where)
        streams = record_streams(backbone, bank, there)
        site_losses(bank, streams, there).sum().backward()
        clip_rows(bank, 1.0)
        assert site_errors(bank, streams, there).isfinite().all()
        return [p.grad.cpu() for p in bank.parameters() if p.grad is not None]

    for one, other in zip(gradients("cpu"), gradients(device), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_reused_views(model: DUSt3R, pair: Pair) -> None:
    expected = trace(model, pair, "dec2.1.mlp")["dec2.1.mlp"].cpu()
    with encoding_once(model) as views:
        for _ in range(2):
            found = trace(model, pair, "dec2.1.mlp")["dec2.1.mlp"].cpu()
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (views.encoded, views.reused) == (4, 4)
