import pytest
import torch
from torch import Tensor

from prob3r.geometry import normalise
from prob3r.measures.displacement import Field, covered, fields, patch_means
from prob3r.rooms import Rooms
from prob3r.scenes import Pair


@pytest.fixture(scope="module")
def room() -> Pair:
    return Rooms("test", (32, 32), compile=False).batch([0, 1])


def test_a_rigid_motion_explains_itself_and_noise_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 400, 3, generator=generator)
    known = torch.ones(2, 400, dtype=torch.bool)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    rigid = Field(start, start @ turn.T + torch.tensor([1.0, 2, 3]) - start, start, known)
    assert rigid.rigid_share().tolist() == pytest.approx([1, 1], abs=1e-4)
    noise = Field(start, torch.randn(2, 400, 3, generator=generator), start, known)
    assert (noise.rigid_share() < 0.2).all()


def test_a_field_towards_the_truth_and_one_away_from_it() -> None:
    start = torch.zeros(1, 3, 3)
    target = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]])
    known = torch.tensor([[True, True, False]])
    every = torch.ones(1, 3, dtype=torch.bool)
    near = Field(start, target / 2, target, known)
    assert near.alignment(every).item() == pytest.approx(1)
    assert near.approach(every).item() == pytest.approx(-0.75)  # of 0.5 and 1; the third is unknown
    assert near.size(every).item() == pytest.approx(0.75)
    away = Field(start, -target, target, known)
    assert away.alignment(every).item() == pytest.approx(-1)
    only = torch.tensor([[True, False, False]])
    assert away.approach(only).item() == pytest.approx(1)
    assert near.size(torch.zeros(1, 3, dtype=torch.bool)).isnan().all()


def test_the_fields_of_a_model_that_steps_to_the_truth(room: Pair) -> None:
    _, truth = normalise(room.points, room.valid)
    points: dict[str, Tensor] = {
        "dec1.embed": truth,
        "dec2.embed": torch.zeros_like(truth),
        "dec2.0.self_attn": truth / 2,
        "dec2.0.cross_attn": truth,
        "dec2.0.mlp": truth,
    }
    found = fields(points, room, 8)
    assert list(found) == ["dec2.0.self_attn", "dec2.0.cross_attn", "dec2.0.mlp"]
    every = torch.ones(2, 16, dtype=torch.bool)
    for site in ("dec2.0.self_attn", "dec2.0.cross_attn"):
        assert (found[site].alignment(every) > 0.97).all(), site
        assert (found[site].approach(every) < 0).all()
    torch.testing.assert_close(found["dec2.0.mlp"].size(every), torch.zeros(2))


def test_the_mean_of_a_patch_is_that_of_its_valid_pixels() -> None:
    points = torch.arange(8.0).reshape(1, 2, 4, 1).repeat(1, 1, 1, 3)
    points[0, 0, 1] = torch.nan
    valid = torch.tensor([[[True, False, False, False], [True, True, False, False]]])
    means = patch_means(points, valid, 2)[0, :, 0]
    assert means.tolist() == pytest.approx([(0 + 4 + 5) / 3, 0])
    assert covered(valid, 2)[0].tolist() == pytest.approx([0.75, 0])
