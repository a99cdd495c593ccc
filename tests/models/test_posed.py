from pathlib import Path

import pytest
import torch

from prob3r.geometry import rotation_angle
from prob3r.models import DUSt3R, DUSt3RConfig, PosedDUSt3R, fingerprint, info, load, random, save
from prob3r.rooms import Rooms
from prob3r.runs.edits import Knockout
from prob3r.runs.trace import trace

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)


@pytest.fixture(scope="module")
def twin() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def posed(twin: DUSt3R) -> PosedDUSt3R:
    model = PosedDUSt3R.from_twin(twin).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a pose head that says something else of every pair
        model.pose_head.weight.copy_(torch.randn(9, 16, generator=generator))
    return model


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    one, two = torch.rand(2, 3, 3, 32, 32, generator=generator) * 2 - 1
    return one, two


def test_view_2_is_its_local_pointmap_moved_by_the_pose(
    posed: PosedDUSt3R, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with torch.no_grad():
        output = posed(*images)
        encoded = posed.encode_pair(*images)
        states = posed.decode(*encoded)
        rotation, translation = posed.pose(states[1])
    local = output.local_points
    assert local is not None
    for pair in range(3):
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation[pair], translation[pair]
        points = local[1][pair].reshape(-1, 3)
        homogeneous = torch.cat((points, torch.ones(len(points), 1)), 1)
        moved = (pose @ homogeneous.T).T[:, :3].reshape(32, 32, 3)
        torch.testing.assert_close(output.points[1][pair], moved, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.points[0], local[0])


def test_the_pose_is_a_rotation_and_starts_at_the_identity(
    twin: DUSt3R, posed: PosedDUSt3R
) -> None:
    states = [torch.randn(5, 17, 16, generator=torch.Generator().manual_seed(3))]
    rotation, _ = posed.pose(states)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5))
    fresh, translation = PosedDUSt3R.from_twin(twin).pose(states)
    assert rotation_angle(fresh).max() < 15
    assert translation.norm(dim=-1).max() < 0.5


def test_the_camera_token_is_a_token_of_view_2s_decoder_alone(
    posed: PosedDUSt3R, twin: DUSt3R
) -> None:
    pair = Rooms("test", (32, 32), compile=False).batch([0, 1])
    wanted = ["dec2.0.self_attn", "dec1.0.self_attn", "enc2.0.mlp", "dec2.1.cross_attn.probs"]
    run = trace(posed, pair, [*wanted, "dec1.1.cross_attn.probs"])
    shapes = {site: tuple(record.shape[1:]) for site, record in run.items()}
    assert shapes == {
        "enc2.0.mlp": (16, 16),
        "dec1.0.self_attn": (16, 16),
        "dec2.0.self_attn": (17, 16),
        "dec1.1.cross_attn.probs": (2, 16, 17),
        "dec2.1.cross_attn.probs": (2, 17, 16),
    }
    dec = posed.stacks["dec"]
    assert (dec.layout(1).special, dec.layout(2).special) == ((), ("camera",))
    assert not posed.stacks["enc"].layout(2).special
    assert not twin.stacks["dec"].layout(2).special


def test_nothing_reaches_the_pose_of_a_camera_token_that_is_cut_off(posed: PosedDUSt3R) -> None:
    pair = Rooms("test", (32, 32), compile=False).batch([0, 1])
    cuts = [
        Knockout("dec2.*.self_attn", queries=[16], keys=list(range(16))),
        Knockout("dec2.*.cross_attn", queries=[16]),
    ]
    whole = trace(posed, pair, "dec2.1.mlp")["dec2.1.mlp"][:, -1]
    cut = trace(posed, pair, "dec2.1.mlp", edits=cuts)["dec2.1.mlp"][:, -1]
    assert (whole[0] - whole[1]).abs().max() > 1e-4
    torch.testing.assert_close(cut[0], cut[1])  # it says the same of every pair


def test_a_file_knows_its_architecture(posed: PosedDUSt3R, tmp_path: Path) -> None:
    path = tmp_path / "posed.safetensors"
    save(posed, path)
    again = load(path)
    assert isinstance(again, PosedDUSt3R)
    assert fingerprint(again) == fingerprint(posed)
    assert info(path).parameters == sum(p.numel() for p in posed.parameters())
    assert isinstance(random(posed), PosedDUSt3R)
