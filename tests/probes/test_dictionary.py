"""Dictionaries and what they are held against, by closed cases."""

from pathlib import Path

import pytest
import torch
from torch import nn

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint
from prob3r.probes.coders import Basis, Directions, largest_positive
from prob3r.probes.dictionary import (
    Dictionary,
    DictionaryShape,
    dictionaries_in,
    file_name,
    sites_of,
    usual_sites,
)
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from tests.models.joint import joint_model, scene

SITES = "dec*.1.mlp"


def perfect(width: int, backbone: str = "", sites: str = SITES, **others) -> Dictionary:
    """A dictionary whose atoms are the channels and their opposites: it loses nothing."""
    made = Dictionary(DictionaryShape(sites, width, 2 * width, width, backbone=backbone, **others))
    both = torch.cat((torch.eye(width), -torch.eye(width)))
    with torch.no_grad():
        made.directions.copy_(both)
        made.encoder.copy_(both.T)
    return made.requires_grad_(False)


def test_only_the_largest_positive_numbers_stay() -> None:
    values = torch.tensor([[3.0, -5.0, 1.0, 2.0], [-1.0, -2.0, -3.0, 4.0]])
    expected = torch.tensor([[3.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 4.0]])
    assert torch.equal(largest_positive(values, 2), expected)


def test_activations_and_reconstructions_by_hand() -> None:
    made = Dictionary(DictionaryShape(SITES, 2, 3, 1))
    with torch.no_grad():
        made.directions.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
        made.encoder.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]))
        made.bias.copy_(torch.tensor([0.5, 0.0]))
        made.mean.copy_(torch.tensor([10.0, 20.0]))
        made.spread.fill_(2.0)
        token = torch.tensor([[13.0, 21.0]])  # (1.5, 0.5) in the stream's spread
        assert torch.equal(made.encode(token), torch.tensor([[1.0, 0.0, 0.0]]))
        assert torch.equal(made.reconstruct(token), torch.tensor([[13.0, 20.0]]))


def test_a_splice_of_a_perfect_dictionary_changes_nothing(model: DUSt3R, rooms: Pair) -> None:
    made = perfect(24)
    clean = trace(model, rooms).output
    spliced = trace(model, rooms, edits=[made.splice()]).output
    torch.testing.assert_close(spliced.points, clean.points, rtol=1e-4, atol=1e-5)


def test_atoms_are_switched_off_and_up(model: DUSt3R, rooms: Pair) -> None:
    made = perfect(24)
    before = trace(model, rooms, ["dec2.1.mlp"])["dec2.1.mlp"]
    edit = made.scale({3: 0.0, 5 + 24: 3.0})
    after = trace(model, rooms, ["dec2.1.mlp"], [edit])["dec2.1.mlp"]
    expected = torch.Tensor(before).clone()
    expected[..., 3] = expected[..., 3].clamp(max=0)  # atom 3 is the positive part of channel 3
    expected[..., 5] = torch.where(expected[..., 5] < 0, 3 * expected[..., 5], expected[..., 5])
    torch.testing.assert_close(torch.Tensor(after), expected, rtol=1e-4, atol=1e-5)
    same = trace(model, rooms, edits=[made.scale({3: 1.0})]).output
    torch.testing.assert_close(same.points, trace(model, rooms).output.points)
    with pytest.raises(Prob3rError, match="no atom 48; atoms count from 0 to 47"):
        made.scale({48: 0.0})


def test_what_the_dictionary_does_not_explain_stays_when_an_atom_changes() -> None:
    made = Dictionary.drawn(DictionaryShape(SITES, 4, 4, 1)).requires_grad_(False)
    tokens = torch.randn(3, 5, 4)
    changed = made.scale({0: 1.0}).function(tokens)
    torch.testing.assert_close(changed, tokens)


@pytest.mark.parametrize("special", [False, True])
def test_special_tokens_are_left_out_unless_they_are_asked_for(special: bool) -> None:
    model, views = joint_model(), scene(3)
    width = next(iter(model.stacks.values())).width
    made = perfect(width, sites="dec*.0.mlp", special=special)
    edit = made.scale(dict.fromkeys(range(2 * width), 0.0))
    run = trace(model, views, ["dec3.0.mlp"], [edit])["dec3.0.mlp"]
    assert (run.patches.abs() < 1e-5).all()
    assert bool((run.token("camera").abs() < 1e-5).all()) == special


def test_principal_directions_keep_the_first_or_the_largest() -> None:
    token = torch.tensor([[1.0, -4.0, 2.0]])
    first = Basis(torch.zeros(3), torch.eye(3), 2)
    largest = Basis(torch.zeros(3), torch.eye(3), 2, largest=True)
    assert torch.equal(first.reconstruct(token), torch.tensor([[1.0, -4.0, 0.0]]))
    assert torch.equal(largest.reconstruct(token), torch.tensor([[0.0, -4.0, 2.0]]))
    assert torch.equal(Basis(torch.ones(3), torch.eye(3)).reconstruct(token), token)


def test_moments_give_the_principal_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(20_000, 3, generator=generator) * torch.tensor([1.0, 3.0, 0.1]) + 5
    made = Dictionary(DictionaryShape(SITES, 3, 6, 2)).requires_grad_(False)
    made.fit_moments(tokens.mean(0), tokens.T.cov())
    assert made.spread.item() == pytest.approx(((1 + 9 + 0.01) / 3) ** 0.5, rel=0.02)
    torch.testing.assert_close(made.principal.abs(), torch.eye(3)[[1, 0, 2]], rtol=0, atol=0.02)
    kept = made.controls()["first"].reconstruct(tokens)
    left = (kept - tokens).square().sum(1).mean()
    assert left.item() == pytest.approx(0.01, rel=0.1)


def test_random_directions_read_gaussian_tokens_better_than_the_mean() -> None:
    tokens = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    made = Directions(torch.zeros(16), 64, 8)
    error = (made.reconstruct(tokens) - tokens).square().sum() / tokens.square().sum()
    assert 0.2 < error.item() < 0.8
    assert (made.encode(tokens) > 0).sum(1).max() <= 8


def test_files(tmp_path: Path, model: DUSt3R) -> None:
    made = perfect(24, fingerprint(model), data="6 scenes of 2 views of rooms:train")
    nn.init.normal_(made.bias)
    path = tmp_path / file_name(made.shape)
    made.save(path)
    (found,) = dictionaries_in(tmp_path)
    assert found.shape == made.shape
    tokens = torch.randn(7, 24)
    assert torch.equal(found.reconstruct(tokens), made.reconstruct(tokens))
    found.check(model)
    other = DUSt3R(model.config)
    with pytest.raises(Prob3rError, match="was trained on the model"):
        found.check(other)


def test_a_control_reads_the_like_of_the_model_with_random_weights(model: DUSt3R) -> None:
    from prob3r.models import random

    weights = fingerprint(random(model, 4))
    made = perfect(24, weights, random_seed=4)
    assert fingerprint(made.backbone_of(model)) == weights
    assert file_name(made.shape) != file_name(perfect(24).shape)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    made = perfect(4)
    made.mean[0] = torch.nan
    made.save(path)
    with pytest.raises(Prob3rError, match="not finite"):
        Dictionary.load(path)
    wrong = perfect(4)
    wrong.shape = DictionaryShape(SITES, 4, 9, 2)
    wrong.save(path)
    with pytest.raises(Prob3rError, match="does not fit its own header"):
        Dictionary.load(path)
    with pytest.raises(Prob3rError, match="must be from 1 to the number of atoms, 4"):
        Dictionary(DictionaryShape(SITES, 4, 4, 5))


def test_sites_share_one_width(model: DUSt3R) -> None:
    assert sites_of(model, SITES) == ["dec1.1.mlp", "dec2.1.mlp"]
    assert sites_of(model, "dec2.1.mlp") == ["dec2.1.mlp"]
    with pytest.raises(Prob3rError, match="2 widths"):
        sites_of(model, "*.0.mlp")
    assert usual_sites(model) == ["dec*.0.mlp", "dec*.1.mlp"]
