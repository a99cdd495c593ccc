from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import (
    DUSt3R,
    DUSt3RConfig,
    fingerprint,
    load,
    metadata,
    random,
    registry,
    save,
    shipped,
    shipped_file,
)
from prob3r.models.architectures import architecture_of
from tests.models.conftest import SMALL
from tests.models.examples import EXAMPLES


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with two models in it."""
    folder = tmp_path / "installed" / "weights"
    for seed, name in enumerate(("mini", "micro")):
        (folder / name).mkdir(parents=True)
        save(random(SMALL, seed), folder / name / "model.safetensors", {"title": name})
    (folder / "README.md").write_text("not a model")
    monkeypatch.setattr(registry, "_WEIGHTS", folder)
    return folder


def same(first: DUSt3R, second: DUSt3R) -> bool:
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_shipped_models_go_by_name(weights_folder: Path) -> None:
    assert shipped() == ["micro", "mini"]
    assert same(load("mini"), random(SMALL, 0))
    assert same(load("micro"), random(SMALL, 1))
    assert metadata("micro")["title"] == "micro"


def test_files_beside_a_shipped_model_are_found(weights_folder: Path, tmp_path: Path) -> None:
    (weights_folder / "mini" / "extra.json").write_text("{}")
    assert shipped_file("mini", "extra.json") == weights_folder / "mini" / "extra.json"
    assert shipped_file("micro", "extra.json") is None
    assert shipped_file(weights_folder / "mini", "extra.json") is None


def test_the_models_that_come_with_prob3r() -> None:
    for name in shipped():
        assert type(load(name).config).from_dict(metadata(name)["config"]) == load(name).config


@pytest.mark.parametrize("kind", [str, Path])
def test_files_go_by_path(kind: type, tmp_path: Path) -> None:
    save(random(SMALL), tmp_path / "a.safetensors", {"title": "a"})
    source = kind(tmp_path / "a.safetensors")
    model = load(source, device="cpu")
    assert same(model, random(SMALL))
    assert not model.training
    assert metadata(source) == {
        "architecture": "dust3r",
        "config": SMALL.to_dict(),
        "title": "a",
    }


@pytest.mark.parametrize("source", ["nano", "some/where.pth", Path("mini")])
def test_what_is_neither_is_told_what_may_be_given(
    source: str | Path, weights_folder: Path
) -> None:
    for function in (load, metadata):
        with pytest.raises(Prob3rError) as error:
            function(source)
        assert f"'{source}'" in str(error.value)
        assert all(
            part in str(error.value)
            for part in ("micro, mini", ".safetensors", ".pth", "hub folder", "owner/name")
        )


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there(device: str, weights_folder: Path) -> None:
    with pytest.raises(Prob3rError, match=f"device '{device}' cannot be used"):
        load("mini", device)


def test_random_models_follow_their_seed(tiny_model: DUSt3R) -> None:
    assert same(random(SMALL, 1), random(SMALL, 1))
    assert not same(random(SMALL, 1), random(SMALL, 2))
    control = random(tiny_model, 0)
    assert control.config == tiny_model.config
    assert not same(control, tiny_model)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_configuration_builds_a_model_of_its_architecture(name: str) -> None:
    config = EXAMPLES[name]().config
    built = random(config, 1)
    assert type(built) is architecture_of(config)
    assert built.config == config
    assert not built.training


def test_making_a_random_model_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    random(SMALL, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    model = random(SMALL)
    prints = {fingerprint(model)}
    assert prints == {fingerprint(random(SMALL))}
    save(model, tmp_path / "a.safetensors")
    assert prints == {fingerprint(load(tmp_path / "a.safetensors"))}

    def nudge(weight: Tensor) -> None:
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3

    nudge(model.downstream_head2.proj.weight)
    assert fingerprint(model) not in prints
    prints.add(fingerprint(random(DUSt3RConfig((64, 64), 16, 16, 1, 2, 24, 2, 2))))
    prints.add(fingerprint(random(SMALL, 1)))
    assert len(prints) == 3
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
