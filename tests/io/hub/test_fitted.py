"""`prob3r probes push` and `pull`: fitted banks between the cache of this machine and the hub."""

from pathlib import Path

import pytest
import torch

from prob3r.models import DUSt3R, fingerprint, random, save
from prob3r.models.protocol import trunk
from prob3r.probes import ProbeBank, ProbeConfig, RidgeBank, load_probes
from prob3r.probes.cache import Kept, keep, kept
from prob3r.probes.ridge import Fit
from tests.cli.test_cli import run
from tests.io.hub.stand_in import Hub
from tests.models.conftest import SMALL

SITES = ("dec1.embed", "dec2.1.mlp")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: DUSt3R) -> Path:
    """A folder with a model and with another one, and an empty cache of banks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "banks"))
    monkeypatch.chdir(tmp_path)
    save(model, tmp_path / "small.safetensors")
    save(random(SMALL, 9), tmp_path / "other.safetensors")
    return tmp_path


def fitted(model: DUSt3R, random_seed: int | None = None) -> Kept:
    """A bank of a model in the cache, with some numbers for weights."""
    fit = Fit("own", "rooms:train", 64, 8, 2, "64 rooms", "0" * 16, 0, "float32", (0.1,), (0.3,))
    read = model if random_seed is None else random(model, random_seed)
    bank = RidgeBank(SITES, trunk(model).width, 16, fingerprint(read), fit=fit)
    bank.random_seed = random_seed
    torch.nn.init.normal_(bank.weight, generator=torch.Generator().manual_seed(3))
    path = keep(bank, fingerprint(model))
    return next(each for each in kept() if each.path == path)


@pytest.mark.parametrize("random_seed", [None, 5])
def test_a_bank_goes_to_the_hub_and_comes_back_into_an_empty_cache(
    owner: Hub,
    model: DUSt3R,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    random_seed: int | None,
) -> None:
    bank = fitted(model, random_seed)
    before = bank.path.read_bytes()
    assert run(monkeypatch, "probes", "push", bank.name, "lab/bank", "--private") == 0
    assert "/lab/bank/commit/" in "".join(capfd.readouterr().out.split())
    assert owner.repositories["models", "lab/bank"].private
    bank.remove()
    assert kept() == []
    pull = ("probes", "pull", "lab/bank", "--model", "small.safetensors")
    assert run(monkeypatch, *pull) == 0
    (back,) = kept(fingerprint(model))
    assert str(back.path) in "".join(capfd.readouterr().out.split())
    assert (back.name, back.fit) == (bank.name, bank.fit)
    assert back.path.read_bytes() == before
    assert isinstance(load_probes(back.path), RidgeBank)


def test_an_older_bank_is_pulled_by_its_revision(
    owner: Hub, model: DUSt3R, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = fitted(model)
    commit = bank.load().push_to_hub("lab/bank").rsplit("/", 1)[1]
    control = fitted(model, 5)
    control.load().push_to_hub("lab/bank")
    bank.remove()
    control.remove()
    pull = ("probes", "pull", f"lab/bank@{commit}", "--model", "small.safetensors")
    assert run(monkeypatch, *pull) == 0
    assert [each.kind for each in kept()] == ["ridge"]


def test_a_bank_of_another_model_is_refused(
    owner: Hub,
    model: DUSt3R,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bank = fitted(model)
    bank.load().push_to_hub("lab/bank")
    bank.remove()
    assert run(monkeypatch, "probes", "pull", "lab/bank", "--model", "other.safetensors") == 1
    said = " ".join(capfd.readouterr().err.split())
    other = fingerprint(random(SMALL, 9))
    wanted = f"'lab/bank' holds probes of the model {fingerprint(model)}, and other.safetensors is"
    assert f"{wanted} {other}." in said
    assert kept() == []


def test_a_trained_bank_is_not_kept_among_the_fitted(
    owner: Hub, model: DUSt3R, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ProbeConfig(trunk(model).width, 16, 1)
    ProbeBank(SITES, config, fingerprint(model)).push_to_hub("lab/trained")
    assert run(monkeypatch, "probes", "pull", "lab/trained", "--model", "small.safetensors") == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "'lab/trained' holds a bank that was not fitted in closed form" in said
    assert kept() == []


def test_strangers_and_unknown_names_end_in_one_sentence(
    hub: Hub, model: DUSt3R, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bank = fitted(model)
    assert run(monkeypatch, "probes", "push", bank.name, "lab/bank") == 1
    assert "answered 401" in " ".join(capfd.readouterr().err.split())
    assert run(monkeypatch, "probes", "push", "nothing", "lab/bank") == 1
    assert "There is no bank 'nothing'" in " ".join(capfd.readouterr().err.split())
    assert run(monkeypatch, "probes", "pull", "lab/none", "--model", "small.safetensors") == 1
    assert "There is no 'lab/none' on the hub" in " ".join(capfd.readouterr().err.split())
    assert not hub.repositories
