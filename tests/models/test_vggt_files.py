"""VGGT's published files: what is read, and what is refused with a sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import VGGT, VGGTConfig, info, load, random, read, save
from prob3r.models.checkpoints import Checkpoint
from tests.models.conformance import FOLDER, nview
from tests.models.published import assert_refused_without, assert_same
from tests.models.test_checkpoints import write_shards
from tests.models.test_vggt import TINY

# A position embedding tells the size of the images; a convolution does not.
CONFIG = VGGTConfig(
    (28, 28),
    width=64,
    heads=2,
    enc_depth=1,
    enc_heads=1,
    features=8,
    channels=(4, 4, 4, 4),
    cam_depth=1,
)


@pytest.fixture(scope="module")
def model() -> VGGT:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def weights(model: VGGT) -> dict[str, Tensor]:
    return model.state_dict()


def hub(folder: Path, weights: dict[str, Tensor], **values: object) -> Path:
    folder.mkdir()
    stated = {"img_size": 28, "patch_size": 14, "embed_dim": 64} | values
    (folder / "config.json").write_text(json.dumps(stated))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "layout", ["a.pt", "a.pth", "a.safetensors", "trained.pt", "hub", "sharded", "own"]
)
def test_every_layout_is_read(
    layout: str, model: VGGT, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """Official weights carry a tracker and a mask token besides."""
    more = weights | {
        "track_head.feature_extractor.norm.weight": torch.zeros(3),
        "aggregator.patch_embed.mask_token": torch.zeros(1, 64),
    }
    path = tmp_path / layout
    if layout == "hub":
        hub(path, more)
    elif layout == "sharded":
        write_shards(hub(path, more), more)
    elif layout == "own":
        path = path.with_suffix(".safetensors")
        save(model, path, {"title": "mini"})
    elif layout == "a.safetensors":
        save_file(more, path)
    else:
        torch.save({"model": more, "epoch": 3} if layout == "trained.pt" else more, path)
    assert_same(load(path), model)


def test_the_official_weights_of_a_convolution(tmp_path: Path) -> None:
    torch.save(nview.weights("vggt_tiny"), tmp_path / "a.pt")
    config = read(tmp_path / "a.pt").config
    assert config.image_size == (518, 518)
    assert VGGTConfig.from_dict(config.to_dict() | {"image_size": (70, 70)}) == TINY
    folder = hub(tmp_path / "hub", nview.weights("vggt_tiny"), img_size=70)
    assert read(folder).config == TINY


def test_the_published_size() -> None:
    inventory = json.loads((FOLDER / "vggt_1b.keys.json").read_text())
    with torch.device("meta"):
        shapes = {name: torch.empty(shape) for name, shape in inventory["keys"].items()}
        expected = VGGT(VGGTConfig()).state_dict()
    extra = "aggregator.patch_embed.mask_token"
    assert {n: t.shape for n, t in shapes.items() if n != extra} == {
        n: t.shape for n, t in expected.items()
    }


def test_what_a_hub_folder_says_without_its_weights(tmp_path: Path) -> None:
    stated = {"img_size": 518, "patch_size": 14, "embed_dim": 1024}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = info(tmp_path)
    assert (found.architecture, found.config) == ("vggt", VGGTConfig())
    assert [stack.name for stack in found.stacks] == ["enc", "dec", "cam"]
    (tmp_path / "config.json").write_text(json.dumps(stated | {"embed_dim": 768}))
    with pytest.raises(Prob3rError, match=r"config.json states width 768; VGGT-1B, .* have 1024"):
        info(tmp_path)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"embed_dim": 32}, "states width 32; its weights have 64"),
        ({"img_size": 42}, r"states image_size \(42, 42\); its weights have \(28, 28\)"),
        ({"depth": 12}, "arguments that are not known: depth"),
    ],
)
def test_a_config_that_contradicts_the_weights(
    values: dict[str, object], named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(Prob3rError, match=named):
        read(hub(tmp_path / "hub", weights, **values))


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("aggregator.camera_token", "lack a whole aggregator.camera_token"),
        ("point_head.scratch.layer1_rn.weight", "lack a whole point_head.scratch.layer1_rn"),
        ("aggregator.patch_embed.patch_embed.proj.weight", "lack a whole aggregator.patch_embed"),
        ("depth_head.norm.bias", "missing: depth_head.norm.bias"),
        ("aggregator.frame_blocks.3.ls1.gamma", "missing: aggregator.frame_blocks.3.ls1.gamma"),
        ("camera_head.trunk.0.*", "cam_depth is 0"),
        ("aggregator.frame_blocks.23.*", "head_blocks is"),
        ("aggregator.global_blocks.23.*", "missing: aggregator.global_blocks.23"),
    ],
)
def test_weights_that_are_not_whole(
    gone: str, named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_refused_without(gone, named, weights, tmp_path)


def test_weights_that_are_left_over_or_of_another_shape(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(weights | {"gaussian_head.bias": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(Prob3rError, match=r"left over: gaussian_head\.bias"):
        read(tmp_path / "a.pt")
    torch.save(weights | {"camera_head.embed_pose.bias": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(Prob3rError, match=r"of another shape: camera_head\.embed_pose\.bias"):
        read(tmp_path / "b.pt")


def test_more_blocks_than_weights(weights: dict[str, Tensor]) -> None:
    card = {"architecture": "vggt", "config": CONFIG.to_dict() | {"depth": 10**9}}
    with pytest.raises(Prob3rError, match="too few for the 2000000002 blocks"):
        Checkpoint(Path("some.pt"), card, weights).build()
