"""Depth Anything 3 against the values of the official code, and what only it does."""

import json

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import transform, unproject
from prob3r.models import (
    Cameras,
    DepthAnything3,
    DepthAnything3Config,
    DepthAnything3Files,
    random,
)
from prob3r.models.camera_encoding import inverses, motion_of
from prob3r.models.depth_anything3 import choose
from prob3r.models.sites import Tap
from prob3r.runs.edits import Transplant
from prob3r.runs.trace import trace
from prob3r.scenes import View
from prob3r.scenes.views import views_of
from tests.checks import every
from tests.models.conformance import nview
from tests.models.examples import DA3_CONFIG, drawn
from tests.models.test_vggt import close

CASES = {
    "da3_small_1x2x70x98": (2, 70, 98),
    "da3_small_1x3x56x70": (3, 56, 70),
    "da3_small_posed_1x2x56x70": (2, 56, 70),
}
ORDER = [2, 0, 1]


@pytest.fixture(scope="module")
def official() -> DepthAnything3:
    model = DepthAnything3(DepthAnything3Config()).eval()
    model.load_state_dict(DepthAnything3Files().renamed(nview.weights("da3_small")))
    return model


@pytest.fixture(scope="module")
def small() -> DepthAnything3:
    return drawn(DepthAnything3(DA3_CONFIG))


@pytest.mark.parametrize("case", CASES)
def test_every_value_is_that_of_the_official_model(official: DepthAnything3, case: str) -> None:
    golden, (count, *size) = dict(nview.golden(case)), CASES[case]
    images, size = nview.views(1, count, *size), (size[0], size[1])
    cameras = tokens = None
    if "given_extrinsics" in golden:
        world_to_cam = golden.pop("given_extrinsics")
        cameras = Cameras(inverses(world_to_cam), golden.pop("given_intrinsics"))
    with torch.no_grad():
        if cameras is not None:
            tokens = official.camera_tokens(cameras, size, count)
            close(tokens, golden.pop("cam_enc"), "camera tokens")
        output = official(*images, cameras=cameras)
        layers = official._layers(images, Tap(), range(4), tokens)
        encodings = official.read_cameras(layers[3])
        rays, sure = official.read_rays([layers[block] for block in range(4)], size)
        last = official.normed([layers[3]])[0]
        if "reference" in golden:
            assert torch.equal(official.reference(*images), golden.pop("reference") + 1)
    close(encodings, golden.pop("pose_enc"), "encodings")
    close(torch.stack(rays, 1), golden.pop("ray"), "rays")
    close(torch.stack(sure, 1), golden.pop("ray_conf"), "confidence of rays")
    close(torch.stack(output.depth, 1), golden.pop("depth"), "depth")
    close(torch.stack(output.depth_confidence, 1), golden.pop("depth_conf"), "confidence")
    close(output.cameras.intrinsics, golden.pop("intrinsics"), "intrinsics")
    poses = motion_of(encodings)
    close(inverses(poses)[..., :3, :], golden.pop("extrinsics"), "extrinsics")
    # prob3r's cameras are in camera 1's frame; its pose takes them back to the model's world.
    close(poses[:, :1] @ output.cameras.cam_to_world, poses, "poses")
    if "feats.3" in golden:
        joined = [last.joined(view, slice(1, None)) for view in range(count)]
        close(torch.stack(joined, 1), golden.pop("feats.3"), "patches")
        joined = [layers[3].joined(view, slice(1)) for view in range(count)]
        close(torch.cat(joined, 1), golden.pop("camera_token.3"), "camera tokens")
    assert not golden


def test_points_come_from_depth_and_cameras_in_the_frame_of_camera_1(small: DepthAnything3) -> None:
    with torch.no_grad():
        output = small(*torch.randn(3, 2, 3, 28, 42))
    poses = output.cameras.cam_to_world
    torch.testing.assert_close(poses[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    parts = zip(
        output.points,
        output.depth,
        poses.unbind(1),
        output.cameras.intrinsics.unbind(1),
        strict=True,
    )
    for points, depth, pose, intrinsics in parts:
        torch.testing.assert_close(points, transform(unproject(depth, intrinsics), pose))
        assert every(depth > 0)
    assert output.confidence is output.depth_confidence
    assert every(torch.stack(output.confidence) > 1)


def test_the_most_average_view_is_chosen() -> None:
    """By hand: two scenes of three views, the numbers of each worked out here one by one."""
    classes = torch.randn(2, 3, 5)
    expected = []
    for scene in classes:
        numbers = []
        for view in range(3):
            token = scene[view]
            unit = token / token.norm()
            others = [scene[i] / scene[i].norm() for i in range(3) if i != view]
            likeness = sum(float(unit @ other) for other in others) / 2
            numbers.append((likeness, float(token.norm()), float(unit.var())))
        scores = []
        for view in range(3):
            score = 0.0
            for kind in range(3):
                values = [number[kind] for number in numbers]
                share = (values[view] - min(values)) / (max(values) - min(values))
                score += abs(share - 0.5)
            scores.append(score)
        expected.append(scores.index(min(scores)))
    assert choose(classes).tolist() == expected


def test_the_choice_does_not_depend_on_the_order_and_the_rest_follows(
    small: DepthAnything3,
) -> None:
    images = torch.randn(3, 12, 3, 28, 42)
    with torch.no_grad():
        one, other = small(*images), small(*images[ORDER])
        chosen, moved = small.reference(*images), small.reference(*images[ORDER])
    assert len(set(chosen.tolist())) > 1  # scenes of one batch differ
    assert [ORDER[view - 1] + 1 for view in moved.tolist()] == chosen.tolist()
    expected = [one.depth[view] for view in ORDER]
    torch.testing.assert_close(list(other.depth), expected, rtol=1e-4, atol=1e-5)


def test_with_two_views_the_first_one_is_the_reference(small: DepthAnything3) -> None:
    images = torch.randn(2, 3, 3, 28, 42)
    assert small.reference(*images).tolist() == [1, 1, 1]
    run = trace(small, views_of([View(image) for image in images]), "dec*.embed")
    first, second = small.state_dict()["backbone.pretrained.camera_token"][0]
    assert every(run["dec1.embed"].token("camera") == first)
    assert every(run["dec2.embed"].token("camera") == second)


def test_the_reference_can_be_changed_inside(small: DepthAnything3) -> None:
    """The class tokens at the input of the last block without other views choose it."""
    generator = torch.Generator().manual_seed(3)
    views = views_of([View(torch.randn(1, 3, 28, 42, generator=generator)) for _ in range(3)])
    found = set()
    for seed in range(8):
        generator.manual_seed(seed)
        given = {"enc1.0.mlp": torch.randn(1, 7, 16, generator=generator)}
        edit = Transplant("enc1.0.mlp", given, patches=[0])
        run = trace(small, views, "dec*.embed", edits=[edit])
        first = small.state_dict()["backbone.pretrained.camera_token"][0, 0]
        tokens = [run[f"dec{view}.embed"].token("camera")[0] for view in (1, 2, 3)]
        chosen = [view for view, token in enumerate(tokens, 1) if torch.equal(token, first)]
        assert len(chosen) == 1
        found.add(chosen[0])
    assert len(found) > 1
    assert small.reads("dec2.embed", 3) == [
        "enc2.1.mlp",
        "enc1.0.mlp",
        "enc2.0.mlp",
        "enc3.0.mlp",
    ]
    assert small.reads("dec2.embed", 2) == ["enc2.1.mlp"]


def test_given_cameras_change_the_answer_and_take_the_place_of_the_choice(
    small: DepthAnything3,
) -> None:
    images, cameras = torch.randn(3, 2, 3, 28, 42), given(2, 3)
    with torch.no_grad():
        plain, posed = small(*images), small(*images, cameras=cameras)
        tokens = small.camera_tokens(cameras, (28, 42), 3)
    assert not torch.allclose(plain.depth[0], posed.depth[0], rtol=1e-2)
    assert tokens.shape == (2, 3, 16)
    fewer = Cameras(cameras.cam_to_world[:, :2], cameras.intrinsics)
    with pytest.raises(Prob3rError, match="There are 3 views; cameras must hold the pose"):
        small(*images, cameras=fewer)
    with pytest.raises(Prob3rError, match="There are 3 views; cameras must hold the pose"):
        small(*images, cameras=Cameras(cameras.cam_to_world))
    without = random(DepthAnything3Config.from_dict(DA3_CONFIG.to_dict() | {"cam_depth": 0}))
    with pytest.raises(Prob3rError, match="no encoder of cameras"):
        without(*images, cameras=cameras)


def test_rays_are_eight_to_a_patch_side(small: DepthAnything3) -> None:
    with torch.no_grad():
        rays, confidence = small.rays(*torch.randn(3, 2, 3, 28, 42))
    assert [tuple(r.shape) for r in rays] == [(2, 16, 24, 6)] * 3
    assert every(torch.stack(confidence) > 1)


def test_fresh_weights_place_all_cameras_near_the_first() -> None:
    """Fields of view that start below 0 would have no gradient."""
    with torch.no_grad():
        cameras = random(DA3_CONFIG, seed=1)(*torch.randn(3, 1, 3, 28, 42)).cameras
    assert cameras is not None
    assert cameras.intrinsics is not None
    assert (cameras.cam_to_world - torch.eye(4)).abs().max() < 0.3
    assert (cameras.intrinsics[..., 0, 0] - 21 / torch.tensor(0.5).tan()).abs().max() < 5


def test_heads_run_in_float32_under_autocast(small: DepthAnything3) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = small(*torch.randn(3, 1, 3, 28, 28), cameras=given(1, 3))
    dtypes: set[torch.dtype] = set()
    output.map(lambda tensor: dtypes.add(tensor.dtype) or tensor)
    assert dtypes == {torch.float32}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"enc_depth": 3}, "enc_depth is 3"),
        ({"heads": 5}, "width is 16"),
        ({"cam_heads": 3}, "width is 16"),
        ({"head_blocks": (0, 0, 1, 2)}, "head_blocks is (0, 0, 1, 2)"),
        ({"head_blocks": (1, 0, 1, 1)}, "head_blocks is (1, 0, 1, 1)"),
        ({"image_size": (28, 42)}, "image_size is (28, 42)"),
        ({"features": 12}, "features is 12"),
        ({"channels": (4, 4, 4, 6)}, "channels is 6"),
        ({"rope_base": float("inf")}, "rope_base is inf"),
        ({"colour": 1}, "colour is not known of a Depth Anything 3"),
    ],
)
def test_configurations_that_cannot_be_built(change: dict[str, object], named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        DepthAnything3Config.from_dict(DA3_CONFIG.to_dict() | change)
    assert named in str(error.value)


def test_a_configuration_survives_json() -> None:
    saved = json.loads(json.dumps(DA3_CONFIG.to_dict()))
    assert DepthAnything3Config.from_dict(saved) == DA3_CONFIG
    assert DepthAnything3Config.from_dict({}) == DepthAnything3Config()


def given(scenes: int, views: int) -> Cameras:
    """Return cameras that look ahead and stand side by side."""
    poses = torch.eye(4).repeat(scenes, views, 1, 1)
    poses[:, :, 0, 3] = torch.arange(views)
    intrinsics: Tensor = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]])
    return Cameras(poses, intrinsics.repeat(scenes, views, 1, 1))
