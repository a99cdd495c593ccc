"""VGGT against the values of the official code, and what only VGGT does."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, transform, unproject
from prob3r.models import VGGT, Prediction, VGGTConfig, load, random
from prob3r.models.camera_head import cameras_of, encoding_of
from prob3r.models.dinov2 import DINOv2, imagenet_normalised
from prob3r.models.sites import Site, Tap
from tests.models.conformance import nview
from tests.models.examples import VGGT_CONFIG
from tests.taps import Keeper

TINY = VGGTConfig((70, 70), 14, 64, 24, 4, enc_depth=0, features=32, channels=(16, 24, 32, 40))
SMALL = replace(VGGT_CONFIG, depth=4, head_blocks=(0, 1, 2, 3), cam_depth=2)
SITES = {
    "frame.attn": "self_attn",
    "frame.mlp": "mlp",
    "global.attn": "global_attn",
    "global.mlp": "global_mlp",
    "frame.probs": "self_attn.probs",
    "global.probs": "global_attn.probs",
}


def run(model: VGGT, *images: Tensor, tap: Tap | None = None) -> Prediction:
    with torch.no_grad():
        output: Prediction = model(*images, tap=tap)
    return output


def close(got: Tensor, golden: Tensor, name: str) -> None:
    """Hold a tensor to 1e-4 of the golden one's largest value."""
    largest = golden[golden.isfinite()].abs().max().item()
    torch.testing.assert_close(got, golden, rtol=0, atol=1e-4 * largest, msg=name)


@pytest.fixture(scope="module")
def tiny() -> VGGT:
    model = VGGT(TINY).eval()
    model.load_state_dict(nview.weights("vggt_tiny"))
    return model


@pytest.fixture(scope="module")
def small() -> VGGT:
    model = VGGT(SMALL).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: nview.parameter(name, shape) for name, shape in shapes.items()})
    return model


@pytest.mark.parametrize(
    ("case", "shape"),
    [("vggt_tiny_2x3x56x70", (2, 3, 56, 70)), ("vggt_tiny_1x1x70x56", (1, 1, 70, 56))],
)
def test_every_value_is_that_of_the_official_model(
    tiny: VGGT, case: str, shape: tuple[int, int, int, int]
) -> None:
    golden, tap = dict(nview.golden(case)), Keeper()
    images, count, size = nview.views(*shape), shape[1], shape[2:]
    output = run(tiny, *images, tap=tap)
    assert output.depth is not None
    assert output.depth_confidence is not None
    assert output.cameras is not None
    close(torch.stack(output.points, 1), golden.pop("world_points"), "points")
    close(torch.stack(output.confidence, 1), golden.pop("world_points_conf"), "confidence")
    close(torch.stack(output.depth, 1), golden.pop("depth")[..., 0], "depth")
    close(torch.stack(output.depth_confidence, 1), golden.pop("depth_conf"), "depth confidence")
    with torch.no_grad():
        layers = tiny.aggregator(list(map(imagenet_normalised, images)), Tap(), [23])
        encodings = torch.stack(tiny.read_cameras(layers[23], Tap()))
    close(encodings, golden.pop("pose_enc_list"), "encodings")
    expected = cameras_of(golden.pop("pose_enc"), size)
    close(output.cameras.cam_to_world, expected.cam_to_world, "cameras")
    assert expected.intrinsics is not None
    assert output.cameras.intrinsics is not None
    # A field of view of 0 is an infinite focal length, which stands in one of these cases.
    close(1 / output.cameras.intrinsics, 1 / expected.intrinsics, "intrinsics")
    for name, value in golden.items():
        part, *rest = name.split(".")
        block, what = rest or ("", "")
        site = f"{block}.{SITES[f'{part}.{what}']}" if block else part
        views = [tap.records[f"dec{view + 1}.{site}"] for view in range(count)]
        if what == "probs":
            stacked = torch.cat(views, 2) if part == "global" else torch.stack(views, 1)
            close(stacked if part == "global" else stacked.flatten(0, 1), value, name)
        else:
            close(torch.stack(views, 1), value, name)


def test_cameras_are_those_of_the_official_code() -> None:
    golden = nview.golden("vggt_pose")
    cameras = cameras_of(golden["pose_enc"], (56, 70))
    assert cameras.intrinsics is not None
    world_to_cam = invert_rigid(cameras.cam_to_world.flatten(0, 1)).unflatten(0, (2, 4))
    close(world_to_cam[:, :, :3], golden["extrinsic"], "extrinsic")
    close(cameras.intrinsics, golden["intrinsic"], "intrinsic")
    close(encoding_of(cameras, (56, 70)), golden["pose_enc_again"], "encoding")
    local = unproject(golden["depth"][..., 0], cameras.intrinsics[0])
    close(transform(local, cameras.cam_to_world[0]), golden["world_points"], "points")


def test_a_camera_survives_its_encoding() -> None:
    golden = nview.golden("vggt_pose")
    cameras = cameras_of(golden["pose_enc"], (56, 70))
    again = cameras_of(encoding_of(cameras, (56, 70)), (56, 70))
    torch.testing.assert_close(again, cameras, rtol=1e-5, atol=1e-4)


def test_dinov2_is_that_of_the_official_code() -> None:
    """The case has two blocks in its trunk, and no heads."""
    golden = nview.golden("vggt_dino_1x2x70x98")
    config = VGGTConfig(
        width=384, depth=4, heads=6, enc_depth=12, enc_heads=6, head_blocks=(0, 1, 2, 3)
    )
    with torch.device("meta"):
        trunk = VGGT(config).aggregator
    del trunk.frame_blocks[2:], trunk.global_blocks[2:]
    weights = nview.weights("vggt_dino")
    weights = {k.removeprefix("aggregator."): v for k, v in weights.items() if "mask" not in k}
    trunk.load_state_dict(weights, assign=True)
    encoder = trunk.patch_embed
    assert isinstance(encoder, DINOv2)
    images = [imagenet_normalised(image) for image in nview.views(1, 2, 70, 98)]
    with torch.no_grad():
        close(encoder.positions(70, 98), golden["pos_embed_interpolated"], "positions")
        assert encoder.positions(518, 518) is encoder.pos_embed
        patches = encoder(images, Tap(), ["enc1", "enc2"])
        close(torch.stack(patches, 1), golden["x_norm_patchtokens"], "patches")
        layers = trunk(images, Tap(), [0, 1])
    for i in (0, 1):
        both = torch.stack([layers[i].joined(view, slice(None)) for view in (0, 1)], 1)
        close(both, golden[f"aggregated.{i}"], f"block {i}")


def test_further_views_may_change_places_and_the_first_may_not(small: VGGT) -> None:
    images = torch.randn(3, 1, 3, 28, 42)
    first, second, third = run(small, *images).points
    again = run(small, images[0], images[2], images[1]).points
    torch.testing.assert_close((first, third, second), again, rtol=1e-4, atol=1e-5)
    moved = run(small, images[1], images[0], images[2]).points
    assert not torch.allclose(moved[1], first, rtol=1e-2)


def test_many_views_go_through_the_heads_in_parts(
    small: VGGT, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(9, 1, 3, 28, 28)
    output = run(small, *images)
    monkeypatch.setattr("prob3r.models.dense_head.MOST_IMAGES", 20)
    together = run(small, *images)
    torch.testing.assert_close(output.points, together.points, rtol=1e-5, atol=1e-5)
    assert len(output.points) == 9


def test_heads_run_in_float32_under_autocast(small: VGGT) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = run(small, *torch.randn(2, 1, 3, 28, 28))
    dtypes: set[torch.dtype] = set()
    output.map(lambda tensor: dtypes.add(tensor.dtype) or tensor)
    assert dtypes == {torch.float32}


def test_images_that_do_not_fit(small: VGGT) -> None:
    with pytest.raises(Prob3rError, match="There is no image"):
        run(small)
    with pytest.raises(Prob3rError, match="28x28, 28x42 pixels; a VGGT takes one size"):
        run(small, torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 42))
    with pytest.raises(Prob3rError, match="30x28 pixels; both sides must be multiples of 14"):
        run(small, torch.zeros(1, 3, 30, 28))


def test_modulations_read_the_tokens_and_all_iterations_before(small: VGGT) -> None:
    assert small.reads("cam2.embed") == ["dec2.3.global_mlp", "dec2.3.mlp"]
    assert small.reads("cam2.0.modulation") == ["cam2.embed"]
    assert small.reads("cam2.2.modulation") == ["cam2.1.global_mlp", "cam2.embed"]
    assert small.reads("cam1.0.global_attn") == ["cam1.0.modulation", "cam2.0.modulation"]
    assert small.reads("dec1.embed") == ["enc1.0.mlp"]
    assert small.head_sites(1)[-2:] == ["cam1.1.global_mlp", "cam1.3.global_mlp"]


def test_the_shipped_one_is_small_and_has_no_encoder() -> None:
    model = load("mini-vggt")
    assert sum(p.numel() for p in model.parameters()) < 15e6
    assert {str(Site.parse(site).stack) for site in model.sites()} == {"dec", "cam"}


def test_fresh_weights_place_all_cameras_near_the_first() -> None:
    """Fields of view that start below 0 would have no gradient."""
    cameras = run(random(SMALL, seed=1), *torch.randn(3, 1, 3, 28, 42)).cameras
    assert cameras is not None
    assert cameras.intrinsics is not None
    assert (cameras.cam_to_world - torch.eye(4)).abs().max() < 0.2
    assert (cameras.intrinsics[..., 0, 0] - 21 / torch.tensor(0.5).tan()).abs().max() < 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"registers": -1}, "registers is -1"),
        ({"heads": 5}, "width is 16"),
        ({"cam_heads": 5}, "twice the width is 32"),
        ({"features": 12}, "features is 12"),
        ({"channels": (4, 4, 4, 6)}, "channels is 6"),
        ({"channels": (4, 4, 0, 4)}, "channels is (4, 4, 0, 4)"),
        ({"head_blocks": (0, 1, 2, 4)}, "head_blocks is (0, 1, 2, 4)"),
        ({"head_blocks": (1, 0, 2, 3)}, "head_blocks is (1, 0, 2, 3)"),
        ({"image_size": (28, 42)}, "image_size is (28, 42)"),
        ({"rope_base": float("inf")}, "rope_base is inf"),
    ],
)
def test_configurations_that_cannot_be_built(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        replace(SMALL, **change)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 2.5}, "depth is 2.5"),
        ({"channels": [4, 4]}, "channels is [4, 4]"),
        ({"image_size": 28}, "image_size is 28"),
        ({"rope_base": "100"}, "rope_base is '100'"),
        ({"colour": 1}, "colour is not known"),
    ],
)
def test_values_that_are_no_configuration(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        VGGTConfig.from_dict(SMALL.to_dict() | change)
    assert named in str(error.value)


def test_a_configuration_survives_json() -> None:
    assert VGGTConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert VGGTConfig.from_dict({}) == VGGTConfig()
