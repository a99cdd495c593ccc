"""π³ against the values of the official code, and what only π³ does."""

import json

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, transform
from prob3r.models import Pi3, Pi3Config, Pi3Files, random
from prob3r.models.layers import RoPE2D
from prob3r.models.sites import Tap
from tests.checks import every
from tests.models.conformance import nview
from tests.models.examples import PI3_CONFIG, drawn
from tests.models.test_vggt import close
from tests.taps import Keeper

TINY = Pi3Config((70, 70), 14, 64, 3, 4, 5, 2, 4, 4, 48, 5, 4, 32)
SIZE = (56, 70)
ORDER = [2, 0, 1]


@pytest.fixture(scope="module")
def tiny() -> Pi3:
    model = Pi3(TINY).eval()
    model.load_state_dict(Pi3Files().renamed(nview.weights("pi3_tiny")))
    return model


@pytest.fixture(scope="module")
def small() -> Pi3:
    return drawn(Pi3(PI3_CONFIG))


def test_every_value_is_that_of_the_official_model(tiny: Pi3) -> None:
    golden, tap = dict(nview.golden("pi3_tiny_1x3x56x70")), Keeper()
    images = nview.views(1, 3, *SIZE)
    with torch.no_grad():
        output = tiny(*images, tap=tap)
        layer = tiny.layers(images, Tap(), tiny.head_blocks)[2]
        poses = tiny.read_poses(layer, SIZE, Tap())
        logits = torch.stack(tiny.read_confidence(layer, SIZE, Tap()), 1)
    assert output.local_points is not None
    assert output.cameras is not None
    close(poses, golden.pop("camera_poses"), "poses in the model's world")
    close(logits, golden.pop("conf")[..., 0], "logits")
    close(torch.stack(output.local_points, 1), golden.pop("local_points"), "local points")
    torch.testing.assert_close(torch.stack(output.confidence, 1), logits.sigmoid())
    # prob3r's points and cameras are in camera 1's frame; its pose takes them back to the world.
    moved = torch.stack([transform(points, poses[:, 0]) for points in output.points], 1)
    close(moved, golden.pop("points"), "points")
    close(poses[:, :1] @ output.cameras.cam_to_world, poses, "poses")

    def stacked(site: str) -> Tensor:
        return torch.stack([tap.records[site.format(view)] for view in (1, 2, 3)], 1)

    for i in range(6):
        site = f"dec{{}}.{i // 2}.{'global_mlp' if i % 2 else 'mlp'}"
        close(stacked(site), golden.pop(f"decoder.{i}"), site)
    for name, stack in (("point", "point"), ("conf", "conf"), ("camera", "cam")):
        decoder = tiny.get_submodule(f"{name}_decoder.linear_out")
        with torch.no_grad():
            found = decoder(stacked(stack + "{}.4.mlp"))
        close(found, golden.pop(f"{name}_decoder"), name)
    with torch.no_grad():
        patches = tiny.encoder.norm(stacked("enc{}.1.mlp"))[:, :, 5:]
    close(patches, golden.pop("x_norm_patchtokens"), "patches")
    assert not golden


def test_views_may_change_places(small: Pi3) -> None:
    """No view is a reference to the model; its answer is moved to the frame of the first one."""
    images = torch.randn(3, 2, 3, 28, 42)
    with torch.no_grad():
        one, other = small(*images), small(*images[ORDER])
    for mine, theirs in (
        (one.local_points, other.local_points),
        (one.confidence, other.confidence),
    ):
        torch.testing.assert_close(
            [mine[view] for view in ORDER], list(theirs), rtol=1e-4, atol=1e-5
        )
    poses = one.cameras.cam_to_world
    back = invert_rigid(poses[:, ORDER[0]])
    expected = [transform(one.points[view], back) for view in ORDER]
    torch.testing.assert_close(list(other.points), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        other.cameras.cam_to_world, back[:, None] @ poses[:, ORDER], rtol=1e-4, atol=1e-4
    )


def test_points_are_in_the_frame_of_camera_1(small: Pi3) -> None:
    with torch.no_grad():
        output = small(*torch.randn(3, 2, 3, 28, 42))
    poses = output.cameras.cam_to_world
    torch.testing.assert_close(poses[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    rotations = poses[..., :3, :3]
    torch.testing.assert_close(
        rotations @ rotations.mT, torch.eye(3).expand(2, 3, 3, 3), rtol=0, atol=1e-5
    )
    assert every(torch.linalg.det(rotations) > 0)
    for points, local, pose in zip(
        output.points, output.local_points, poses.unbind(1), strict=True
    ):
        torch.testing.assert_close(points, transform(local, pose))
        assert every(local[..., 2] > 0)
    assert every(c.min() > 0 and c.max() < 1 for c in output.confidence)


def test_registers_are_not_turned_and_patches_count_from_1(tiny: Pi3) -> None:
    rope: RoPE2D = tiny._rope(SIZE, 16, 2, torch.zeros(1))
    turned = rope(torch.ones(1, 1, 2 * 25, 16))[0, 0]
    assert every((turned[:5] == 1).all(1))
    assert not (turned[5:25] == 1).all(1).any()
    torch.testing.assert_close(turned[:25], turned[25:])


def test_the_decoders_read_both_parts_of_the_last_block(small: Pi3) -> None:
    assert small.reads("conf2.embed", 3) == ["dec2.1.global_mlp", "dec2.1.mlp"]
    assert small.reads("cam2.0.self_attn", 3) == ["cam2.embed"]
    assert small.reads("dec1.embed", 3) == ["enc1.0.mlp"]
    assert small.head_sites(2) == [
        f"{stack}{view}.0.mlp" for stack in ("point", "conf", "cam") for view in (1, 2)
    ]


def test_fresh_cameras_are_near_the_identity() -> None:
    with torch.no_grad():
        cameras = random(PI3_CONFIG, seed=1)(*torch.randn(3, 1, 3, 28, 42)).cameras
    assert cameras is not None
    assert (cameras.cam_to_world[..., :3, :3] - torch.eye(3)).abs().max() < 0.2


def test_heads_run_in_float32_under_autocast(small: Pi3) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = small(*torch.randn(2, 1, 3, 28, 28))
    dtypes: set[torch.dtype] = set()
    output.map(lambda tensor: dtypes.add(tensor.dtype) or tensor)
    assert dtypes == {torch.float32}


def test_images_that_do_not_fit(small: Pi3) -> None:
    with pytest.raises(Prob3rError, match="There is no image; a π³ takes one view or more"):
        small()
    with pytest.raises(Prob3rError, match="28x28, 28x42 pixels; a π³ takes one size at once"):
        small(torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 42))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"heads": 5}, "width is 16"),
        ({"head_heads": 5}, "head_width is 24"),
        ({"image_size": [28, 42]}, "image_size is (28, 42)"),
        ({"rope_base": 0}, "rope_base is 0"),
        ({"patch": 14.5}, "patch is 14.5; it must be a whole number"),
        ({"colour": 1}, "colour is not known of a π³"),
    ],
)
def test_configurations_that_cannot_be_built(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        Pi3Config.from_dict(PI3_CONFIG.to_dict() | change)
    assert named in str(error.value)


def test_a_configuration_survives_json() -> None:
    assert Pi3Config.from_dict(json.loads(json.dumps(PI3_CONFIG.to_dict()))) == PI3_CONFIG
    assert Pi3Config.from_dict({}) == Pi3Config()
