"""π³'s published files: what is read, and what is refused with a sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import Pi3, Pi3Config, Pi3Files, info, load, random, read, save
from prob3r.models.dinov2 import IMAGENET_DEVIATION, IMAGENET_MEAN
from tests.models.conformance import FOLDER
from tests.models.published import assert_refused_without, assert_same

# The heads of DINOv2 and of the decoders are 64 wide in official weights.
CONFIG = Pi3Config(
    (28, 28),
    width=64,
    depth=1,
    heads=2,
    enc_depth=1,
    enc_heads=1,
    head_width=64,
    head_depth=1,
    head_heads=1,
    cam_width=8,
)
STATED = {"decoder_size": "large", "pos_type": "rope100"}


@pytest.fixture(scope="module")
def model() -> Pi3:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def weights(model: Pi3) -> dict[str, Tensor]:
    """Official weights carry what images are normalised with, and may carry a mask token."""
    return model.state_dict() | {
        "image_mean": torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1),
        "image_std": torch.tensor(IMAGENET_DEVIATION).reshape(1, 3, 1, 1),
        "encoder.mask_token": torch.zeros(1, 64),
    }


def hub(folder: Path, weights: dict[str, Tensor], **values: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(STATED | values))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("layout", ["a.pt", "a.pth", "a.safetensors", "trained.pt", "hub", "own"])
def test_every_layout_is_read(
    layout: str, model: Pi3, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / layout
    if layout == "hub":
        hub(path, weights)
    elif layout == "own":
        path = path.with_suffix(".safetensors")
        save(model, path)
    elif layout == "a.safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights} if layout == "trained.pt" else weights, path)
    assert model.config == CONFIG
    assert_same(load(path), model)


def test_the_published_size() -> None:
    inventory = json.loads((FOLDER / "pi3_large.keys.json").read_text())["keys"]
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in inventory.items()}
        expected = Pi3(Pi3Config()).state_dict()
    assert Pi3Files().of_weights(weights) == Pi3Config()
    constants = {"image_mean", "image_std"}
    assert {n: t.shape for n, t in weights.items() if n not in constants} == {
        n: t.shape for n, t in expected.items()
    }


def test_what_a_hub_folder_says_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(STATED))
    found = info(tmp_path)
    assert (found.architecture, found.config) == ("pi3", Pi3Config())
    assert [stack.name for stack in found.stacks] == ["enc", "dec", "point", "conf", "cam"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"decoder_size": "small"}, "decoder_size 'small'; it must be 'large'"),
        ({"pos_type": "none"}, "pos_type 'none'; it must be 'rope100'"),
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
        ("register_token", "lack a whole register_token"),
        ("point_decoder.projects.weight", "lack a whole point_decoder.projects.weight"),
        ("encoder.pos_embed", "lack a whole encoder.pos_embed"),
        ("conf_head.proj.bias", "missing: conf_head.proj.bias"),
        ("decoder.1.*", "The decoder has 1 blocks"),
        ("camera_decoder.blocks.0.*", "missing: camera_decoder.blocks.0"),
    ],
)
def test_weights_that_are_not_whole(
    gone: str, named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_refused_without(gone, named, weights, tmp_path)


def test_weights_that_are_left_over(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"metric_token": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(Prob3rError, match="left over: metric_token"):
        read(tmp_path / "a.pt")


def test_images_that_are_normalised_otherwise(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"image_mean": torch.full((1, 3, 1, 1), 0.5)}, tmp_path / "a.pt")
    with pytest.raises(Prob3rError, match=r"a\.pt: image_mean is .* it must be ImageNet's"):
        read(tmp_path / "a.pt")
