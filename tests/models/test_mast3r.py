"""MASt3R against the values of the official code, and how its published files are read."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import (
    DUSt3R,
    DUSt3RConfig,
    DUSt3RFiles,
    MASt3R,
    MASt3RConfig,
    MASt3RFiles,
    Prediction,
    info,
    parse_model_string,
    random,
    read,
    save,
)
from tests.models.conformance import FOLDER, nview
from tests.models.test_checkpoints import write_shards

NAMES = {"points": "pts3d", "confidence": "conf", "descriptors": "desc"}
NAMES |= {"descriptor_confidence": "desc_conf"}
SMALL = MASt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, descriptors=5)
STRING = (
    "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(32, 32), "
    "head_type='catmlp+dpt', output_mode='pts3d+desc5', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=16, enc_depth=1, enc_num_heads=2, dec_embed_dim=24, "
    "dec_depth=4, dec_num_heads=2, two_confs=True, desc_conf_mode=('exp', 0, inf))"
)
HUB = {
    "pos_embed": "RoPE100",
    "img_size": [32, 32],
    "head_type": "catmlp+dpt",
    "output_mode": "pts3d+desc5",
    "depth_mode": ["exp", -math.inf, math.inf],
    "conf_mode": ["exp", 1, math.inf],
    "enc_embed_dim": 16,
    "enc_depth": 1,
    "enc_num_heads": 2,
    "dec_embed_dim": 24,
    "dec_depth": 4,
    "dec_num_heads": 2,
    "two_confs": True,
    "desc_conf_mode": ["exp", 0, math.inf],
    "landscape_only": False,
    "patch_embed_cls": "PatchEmbedDust3R",
}


@pytest.fixture(scope="module")
def model() -> MASt3R:
    return random(SMALL, seed=1)


def inventory(name: str) -> tuple[str, dict[str, list[int]]]:
    content = json.loads((FOLDER / f"{name}.keys.json").read_text())
    return content["model"], content["keys"]


def pth(path: Path, weights: dict[str, Tensor], text: str = STRING) -> Path:
    torch.save({"args": Namespace(model=text), "model": weights}, path)
    return path


def hub(folder: Path, weights: dict[str, Tensor], **values: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HUB | values))
    save_file(weights, folder / "model.safetensors")
    return folder


def run(model: torch.nn.Module, *images: Tensor) -> Prediction:
    with torch.no_grad():
        output: Prediction = model(*images)
    return output


def assert_same(got: object, expected: MASt3R) -> None:
    assert isinstance(got, MASt3R)
    assert got.config == expected.config
    states = got.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_every_value_is_that_of_the_official_model(tmp_path: Path) -> None:
    text, _ = inventory("mast3r_tiny")
    tiny = read(pth(tmp_path / "tiny.pth", nview.weights("mast3r_tiny"), text))
    output, golden = run(tiny, *nview.views(1, 2, 64, 96)), nview.golden("mast3r_tiny_1x64x96")
    compared = 0
    for ours, theirs in NAMES.items():
        for view, tensor in enumerate(getattr(output, ours), 1):
            expected = golden[f"{theirs}_{view}"]
            most = 1e-4 * expected.abs().max().item()
            torch.testing.assert_close(tensor, expected, rtol=0, atol=most, msg=ours)
            compared += 1
    assert compared == len(golden)


def test_the_published_sizes_have_the_published_weights() -> None:
    text, keys = inventory("mast3r_512_catmlpdpt")
    config = parse_model_string(text)
    assert config == MASt3RConfig((512, 512))
    with torch.device("meta"):
        model = MASt3R(config)
        weights = {name: torch.empty(shape) for name, shape in keys.items()}
    renamed = {name: list(t.shape) for name, t in MASt3RFiles().renamed(weights).items()}
    assert renamed == {name: list(t.shape) for name, t in model.state_dict().items()}
    # Without a configuration, the published sizes are known by their weights.
    assert MASt3RFiles().of_weights(weights) == config
    assert DUSt3RFiles().of_weights(weights) is None
    del weights["enc_norm.bias"]
    assert MASt3RFiles().of_weights(weights) is None


def test_descriptors_have_unit_length_and_confidences_their_least(model: MASt3R) -> None:
    images = torch.randn(2, 2, 3, 32, 48)
    output = run(model, *images)
    assert output.descriptors is not None
    assert output.descriptor_confidence is not None
    for descriptors, confidence in zip(
        output.descriptors, output.descriptor_confidence, strict=True
    ):
        assert descriptors.shape == (2, 32, 48, 5)
        torch.testing.assert_close(descriptors.norm(dim=-1), torch.ones(2, 32, 48))
        assert (confidence > 0).all()
        assert (confidence < 1).any()


def test_points_are_those_of_a_dust3r_with_the_same_weights(model: MASt3R) -> None:
    twin = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, "dpt"))
    shared = {k: v for k, v in model.state_dict().items() if "head_local_features" not in k}
    twin.load_state_dict(shared)
    images = torch.randn(2, 1, 3, 32, 32)
    ours, theirs = run(model, *images), run(twin, *images)
    pairs = zip(ours.points + ours.confidence, theirs.points + theirs.confidence, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert theirs.descriptors is None


class TestFiles:
    def test_all_layouts_give_the_same_model(self, model: MASt3R, tmp_path: Path) -> None:
        weights = model.state_dict()
        leftovers = {"mask_token": torch.zeros(1, 1, 24)}
        assert_same(read(pth(tmp_path / "a.pth", weights | leftovers)), model)
        folder = hub(tmp_path / "hub", weights | leftovers)
        assert_same(read(folder), model)
        assert_same(read(write_shards(folder, weights)), model)
        save(model, tmp_path / "own.safetensors")
        assert_same(read(tmp_path / "own.safetensors"), model)

    def test_aliases_are_read(self, model: MASt3R, tmp_path: Path) -> None:
        aliased = {
            name.replace("scratch.layer_rn.0", "scratch.layer1_rn"): tensor
            for name, tensor in model.state_dict().items()
        }
        assert_same(read(hub(tmp_path / "hub", aliased)), model)

    def test_info_needs_no_weights(self, model: MASt3R, tmp_path: Path) -> None:
        folder = hub(tmp_path / "hub", model.state_dict())
        (folder / "model.safetensors").unlink()
        found = info(folder)
        assert (found.architecture, found.config) == ("mast3r", SMALL)
        assert found.parameters == sum(p.numel() for p in model.parameters())

    def test_without_desc_conf_mode_it_is_that_of_the_points(
        self, model: MASt3R, tmp_path: Path
    ) -> None:
        shorter = STRING.replace(", desc_conf_mode=('exp', 0, inf)", "")
        loaded = read(pth(tmp_path / "a.pth", model.state_dict(), shorter))
        images = torch.randn(2, 1, 3, 32, 32)
        ours, theirs = run(model, *images), run(loaded, *images)
        assert ours.descriptor_confidence is not None
        assert theirs.descriptor_confidence is not None
        torch.testing.assert_close(
            theirs.descriptor_confidence[1], 1 + ours.descriptor_confidence[1]
        )
        unset = hub(tmp_path / "hub", model.state_dict(), desc_conf_mode=None)
        assert isinstance(found := read(unset), MASt3R)
        assert found.config.least_confidence == 1

    @pytest.mark.parametrize(
        ("old", "new", "named"),
        [
            ("two_confs=True", "two_confs=False", "two_confs=False; it must be True"),
            ("two_confs=True, ", "", "must state two_confs, as published ones of AsymmetricMASt3R"),
            ("catmlp+dpt", "catconv", "head_type='catconv'; it must be 'catmlp+dpt'"),
            ("pts3d+desc5", "pts3d", "output_mode is 'pts3d'; it must be 'pts3d+desc24'"),
            ("pts3d+desc5", "pts3d+desc0", "descriptors is 0; it must be positive"),
            ("('exp', 0, inf)", "('exp', 2, inf)", "desc_conf_mode="),
            ("('exp', 0, inf)", "open('x')", "desc_conf_mode must be made of numbers"),
            ("AsymmetricMASt3R", "Evil", "asks for Evil"),
        ],
    )
    def test_strings_that_are_refused(
        self, old: str, new: str, named: str, model: MASt3R, tmp_path: Path
    ) -> None:
        path = pth(tmp_path / "a.pth", model.state_dict(), STRING.replace(old, new))
        with pytest.raises(Prob3rError) as error:
            read(path)
        assert named in str(error.value)
        assert "a.pth" in str(error.value)

    def test_a_config_that_contradicts_the_weights(self, model: MASt3R, tmp_path: Path) -> None:
        with pytest.raises(Prob3rError, match=r"missing: dec_blocks\.4.*; weights|missing: dec"):
            read(hub(tmp_path / "deep", model.state_dict(), dec_depth=5))
        with pytest.raises(Prob3rError, match=r"of another shape: .*head_local_features\.fc2"):
            read(hub(tmp_path / "wide", model.state_dict(), output_mode="pts3d+desc6"))

    def test_a_checkpoint_of_another_architecture(self, model: MASt3R, tmp_path: Path) -> None:
        twin: DUSt3R = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, "dpt"))
        with pytest.raises(Prob3rError, match=r"missing: downstream_head1\.head_local_features"):
            read(pth(tmp_path / "a.pth", twin.state_dict()))
        text = STRING.replace("AsymmetricMASt3R", "AsymmetricCroCo3DStereo")
        for own in ("catmlp+dpt", "pts3d+desc5"):
            text = text.replace(own, {"catmlp+dpt": "dpt", "pts3d+desc5": "pts3d"}[own])
        text = text.replace(", two_confs=True, desc_conf_mode=('exp', 0, inf)", "")
        with pytest.raises(Prob3rError, match=r"left over: downstream_head1\.head_local_features"):
            read(pth(tmp_path / "b.pth", model.state_dict(), text))

    def test_anything_else_is_an_error(self, model: MASt3R, tmp_path: Path) -> None:
        weights = model.state_dict() | {"head_of_mine.bias": torch.zeros(1)}
        with pytest.raises(Prob3rError, match=r"left over: head_of_mine\.bias"):
            read(hub(tmp_path / "hub", weights))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"descriptors": 0}, "descriptors is 0"),
        ({"descriptors": "24"}, "descriptors is '24'"),
        ({"least_confidence": 2}, "least_confidence is 2; it must be 0 or 1"),
        ({"head": "dpt"}, "head is 'dpt'; it must be 'catmlp+dpt'"),
        ({"patch": 8}, "patch is 8"),
        ({"depth": 3}, "depth is not known of a MASt3R"),
    ],
)
def test_values_that_are_no_configuration(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        MASt3RConfig.from_dict(SMALL.to_dict() | change)
    assert named in str(error.value)
