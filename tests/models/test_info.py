from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, info, load, save
from tests.models.conftest import SMALL
from tests.models.test_checkpoints import write_hub


def test_it_says_what_reading_the_model_would_show(model: DUSt3R, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(model, path, {"licence": "Apache-2.0", "name": "small"}, torch.float16)
    found = info(path)
    assert (found.architecture, found.config) == ("dust3r", SMALL)
    assert [stack.name for stack in found.stacks] == ["enc", "dec"]
    read = load(path)
    assert found.parameters == sum(p.numel() for p in read.parameters())
    assert found.memory == sum(p.numel() * p.element_size() for p in read.parameters())
    assert found.sites == read.sites()
    assert found.attention_sites == read.attention_sites()
    assert found.licence == "Apache-2.0"
    assert found.card == {"name": "small"}


def test_weights_are_not_read(model: DUSt3R, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-400] + b"\xff" * 400)  # NaN, which reading would refuse
    with pytest.raises(Prob3rError, match="not finite"):
        load(path)
    assert info(path).parameters > 0


def test_a_licence_beside_the_weights_is_found(model: DUSt3R, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(model, path)
    assert info(path).licence is None
    (tmp_path / "README.md").write_text("---\ntags: [3d]\nlicense: cc-by-nc-sa-4.0\n---\n# Model")
    assert info(path).licence == "cc-by-nc-sa-4.0"


def test_of_a_hub_folder_the_configuration_is_enough(model: DUSt3R, tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "hub", model.state_dict())
    (folder / "model.safetensors").unlink()
    assert info(folder).config == SMALL
    with pytest.raises(Prob3rError, match=r"must hold config\.json and model\.safetensors"):
        load(folder)


def test_there_is_nothing_to_say_of_no_model() -> None:
    with pytest.raises(Prob3rError, match="There is no model 'maxi'"):
        info("maxi")
