from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint, random, read_tensors, save, write_tensors
from prob3r.probes import (
    ProbeBank,
    ProbeConfig,
    backbone_of,
    check_backbone,
    load_probes,
    save_probes,
)
from prob3r.probes.files import KINDS
from prob3r.training.probes import bank_for

SITES = ("dec2.1.mlp", "dec1.embed")


@pytest.fixture
def bank(model: DUSt3R) -> ProbeBank:
    return ProbeBank(SITES, ProbeConfig(24, 8, 3, width=10), fingerprint(model), seed=4)


@pytest.fixture
def path(bank: ProbeBank, tmp_path: Path) -> Path:
    save_probes(bank, tmp_path / "probes.safetensors", {"pairs": 7})
    return tmp_path / "probes.safetensors"


def rewritten(path: Path, **changes: object) -> Path:
    """The same file with another header."""
    tensors, header = read_tensors(path)
    assert header is not None
    description = {k: v for k, v in (header["bank"] | changes).items() if v is not None}
    target = path.with_name("changed.safetensors")
    write_tensors(target, {n: t.clone() for n, t in tensors.items()}, {"bank": description})
    return target


def test_a_bank_comes_back_as_it_was(bank: ProbeBank, path: Path, model: DUSt3R) -> None:
    loaded = load_probes(path)
    assert (loaded.sites, loaded.config, loaded.backbone) == (SITES, bank.config, bank.backbone)
    for name, tensor in bank.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    check_backbone(loaded, model)
    _, header = read_tensors(path)
    assert header is not None
    assert header["pairs"] == 7


def test_a_bank_in_half_precision_is_read_as_single(bank: ProbeBank, tmp_path: Path) -> None:
    save_probes(bank, tmp_path / "half.safetensors", dtype=torch.float16)
    loaded = load_probes(str(tmp_path / "half.safetensors"))
    for name, tensor in bank.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())


def test_the_probes_of_another_model_are_refused(bank: ProbeBank, model: DUSt3R) -> None:
    with pytest.raises(Prob3rError, match=f"trained on the model {bank.backbone}, but this model"):
        check_backbone(bank, random(model, seed=9))


def test_a_control_brings_its_backbone_with_it(model: DUSt3R, tmp_path: Path) -> None:
    backbone, bank = bank_for(model, "random", seed=3)
    bank.backbone = fingerprint(backbone)
    save_probes(bank, tmp_path / "control.safetensors")
    loaded = load_probes(tmp_path / "control.safetensors")
    assert (loaded.kind, loaded.random_seed) == ("random", 3)
    assert fingerprint(backbone_of(loaded, model)) == bank.backbone
    loaded.random_seed = 4
    with pytest.raises(Prob3rError, match=f"trained on the model {bank.backbone}, but this model"):
        backbone_of(loaded, model)


def test_a_banks_backbone_is_the_model_itself(bank: ProbeBank, model: DUSt3R) -> None:
    assert backbone_of(bank, model) is model
    with pytest.raises(Prob3rError, match="trained on the model"):
        backbone_of(bank, random(model, seed=9))


@pytest.mark.parametrize("kind", KINDS)
def test_probes_that_are_not_shipped_are_named(kind: str) -> None:
    with pytest.raises(Prob3rError, match=f"No '{kind}' probes are shipped for 'maxi'; give"):
        load_probes("maxi", kind)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Prob3rError, match="kind is 'cubic'; it must be one of mlp, linear"):
        load_probes("mini", "cubic")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match=r"none\.safetensors is not a whole"):
        load_probes(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file_is_one_sentence(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Prob3rError, match=r"probes\.safetensors is not a whole"):
        load_probes(path)


def test_a_models_file_is_no_bank(model: DUSt3R, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors")
    with pytest.raises(Prob3rError, match=r"model\.safetensors holds no probe bank\."):
        load_probes(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 4},
        {"depth": "three"},
        {"width": 11},
        {"patch": None},
        {"sites": ["dec2.1.mlp"]},
        {"sites": 3},
        {"sites": None},
        {"stream": -1},
        {"random_seed": "seven"},
        {"reader": "lens"},
    ],
)
def test_a_header_that_does_not_fit_is_one_sentence(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(Prob3rError, match=r"changed\.safetensors does not fit its own") as caught:
        load_probes(rewritten(path, **changes))
    assert "\n" not in str(caught.value)


def test_a_site_that_cannot_be_is_refused(path: Path) -> None:
    with pytest.raises(Prob3rError, match="'decoder' is not a site"):
        load_probes(rewritten(path, sites=["dec2.1.mlp", "decoder"]))


def test_weights_that_are_not_finite_are_refused(bank: ProbeBank, tmp_path: Path) -> None:
    with torch.no_grad():
        bank.norm_bias[1, 0, 3] = torch.nan
    save_probes(bank, tmp_path / "nan.safetensors")
    with pytest.raises(Prob3rError, match=r"nan\.safetensors has weights that are not finite"):
        load_probes(tmp_path / "nan.safetensors")


def test_nothing_is_left_of_a_bank_that_cannot_be_written(bank: ProbeBank, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="cannot be written"):
        save_probes(bank, tmp_path / "missing" / "probes.safetensors")
    with pytest.raises(Prob3rError, match=r"must end in \.safetensors"):
        save_probes(bank, tmp_path / "probes.pt")
    assert list(tmp_path.iterdir()) == []
