"""Depth Anything 3's published files: what is read, and what is refused with a sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import (
    DepthAnything3,
    DepthAnything3Config,
    DepthAnything3Files,
    info,
    load,
    random,
    read,
    save,
)
from tests.models.conformance import FOLDER
from tests.models.published import assert_refused_without, assert_same

# The heads of the backbone are 64 wide in official weights.
CONFIG = DepthAnything3Config(
    (28, 28),
    width=64,
    heads=1,
    enc_depth=2,
    features=8,
    channels=(4, 4, 4, 4),
    cam_depth=1,
)


@pytest.fixture(scope="module")
def model() -> DepthAnything3:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def weights(model: DepthAnything3) -> dict[str, Tensor]:
    """Official weights carry three more levels of rays, and may carry a mask token."""
    more = {
        "head.scratch.output_conv1_aux.0.0.bias": torch.zeros(4),
        "head.scratch.output_conv2_aux.2.5.weight": torch.zeros(7, 32, 1, 1),
        "backbone.pretrained.mask_token": torch.zeros(1, 64),
    }
    return {f"model.{name}": tensor for name, tensor in (model.state_dict() | more).items()}


def hub(folder: Path, weights: dict[str, Tensor], **values: object) -> Path:
    folder.mkdir()
    stated = {"model_name": "da3-base", "config": {"head": {"features": 8}}} | values
    (folder / "config.json").write_text(json.dumps(stated))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("layout", ["a.pt", "a.pth", "a.safetensors", "plain.pt", "hub", "own"])
def test_every_layout_is_read(
    layout: str, model: DepthAnything3, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / layout
    if layout == "hub":
        hub(path, weights)
    elif layout == "own":
        path = path.with_suffix(".safetensors")
        save(model, path)
    elif layout == "a.safetensors":
        save_file(weights, path)
    elif layout == "plain.pt":
        torch.save({"model": {n.removeprefix("model."): t for n, t in weights.items()}}, path)
    else:
        torch.save(weights, path)
    assert model.config == CONFIG
    assert_same(load(path), model)


def test_the_published_size() -> None:
    inventory = json.loads((FOLDER / "da3_small.keys.json").read_text())["keys"]
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in inventory.items()}
        expected = DepthAnything3(DepthAnything3Config()).state_dict()
    files = DepthAnything3Files()
    assert files.of_weights(weights) == DepthAnything3Config()
    renamed = files.renamed(weights)
    assert {n: t.shape for n, t in renamed.items()} == {n: t.shape for n, t in expected.items()}
    levels = {n.split(".")[4] for n in inventory.keys() - {f"model.{name}" for name in renamed}}
    assert levels == {"0", "1", "2"}  # of rays, which only training needs


def test_weights_without_an_encoder_of_cameras(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({n: t for n, t in weights.items() if ".cam_enc." not in n}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt").config.cam_depth == 0


def test_what_a_hub_folder_says_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "da3-small"}))
    found = info(tmp_path)
    assert (found.architecture, found.config) == ("depth-anything-3", DepthAnything3Config())
    assert [stack.name for stack in found.stacks] == ["enc", "dec"]
    (tmp_path / "config.json").write_text(json.dumps({"model_name": "da3-giant"}))
    with pytest.raises(Prob3rError, match="names da3-giant; without its weights only da3-small"):
        info(tmp_path)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_name": "da3-small"}, "names da3-small; its weights are 64 wide"),
        ({"depth": 12}, "arguments that are not known: depth"),
    ],
)
def test_a_config_of_another_model(
    values: dict[str, object], named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(Prob3rError, match=named):
        read(hub(tmp_path / "hub", weights, **values))


def test_weights_of_another_model_beside_the_config(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="the weights beside it are not"):
        read(hub(tmp_path / "hub", {"some.weight": torch.zeros(2)}))


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("backbone.pretrained.cls_token", "lack a whole backbone.pretrained.cls_token"),
        ("head.projects.2.weight", "lack a whole head.projects.2.weight"),
        ("backbone.pretrained.camera_token", "missing: backbone.pretrained.camera_token"),
        ("head.scratch.output_conv2_aux.3.*", "missing: head.scratch.output_conv2_aux.3"),
        ("backbone.pretrained.blocks.9.*", "7 blocks with query norms"),
        ("cam_enc.pose_branch.*", "missing: cam_enc.pose_branch"),
    ],
)
def test_weights_that_are_not_whole(
    gone: str, named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_refused_without(f"model.{gone}", named, weights, tmp_path)


def test_weights_that_are_left_over(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"model.gs_head.norm.bias": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(Prob3rError, match=r"left over: gs_head\.norm\.bias"):
        read(tmp_path / "a.pt")
