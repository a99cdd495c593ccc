"""Probes of tokens: closed form and perceptrons, and the best patch of a site."""

import pytest
import torch
from torch import Tensor

from prob3r.probes import perceptrons, tokens
from prob3r.probes.equations import NormalEquations, regress
from prob3r.probes.perceptrons import fit_mlps, run_mlps
from prob3r.probes.targets import POSE, Goals
from prob3r.probes.tokens import BEST, LINEAR, MLP, PENALTY, POOLED, KeptTokens, TokenProbes
from prob3r.rooms import Rooms


def test_ridge_is_least_squares_with_the_penalty_as_rows() -> None:
    features, targets = torch.randn(3, 40, 6), torch.randn(40, 2)
    rows = (PENALTY * 40) ** 0.5 * torch.eye(6)
    for weights, given in zip(regress(features, targets, PENALTY), features, strict=True):
        solution = torch.linalg.lstsq(
            torch.cat((given, rows)), torch.cat((targets, torch.zeros(6, 2)))
        ).solution
        assert torch.allclose(weights, solution, atol=1e-4)


def test_perceptrons_learn_and_are_alone() -> None:
    features = torch.randn(2, 400, 4)
    targets = features[0, :, :1] * features[0, :, 1:2]  # which no linear probe can say
    weights = fit_mlps(features, targets, 300, seed=0)
    error = (run_mlps(weights, features)[:, 300:] - targets[300:]).square().mean((1, 2))
    assert error[0] < 0.2 < 0.5 < error[1]
    other = torch.stack((features[0], torch.randn(400, 4)))
    first = run_mlps(fit_mlps(other, targets, 300, seed=0), other)[0]
    assert torch.allclose(first, run_mlps(weights, features)[0], atol=1e-4)


def planted(count: int) -> tuple[list[Tensor], Goals]:
    """Streams of noise; at the second site patch 2 tells the pose."""
    goals = POSE.truth(Rooms("train", (32, 32), compile=False).batch(range(count)), 2, 8)
    streams = [0.1 * torch.randn(count, 4, 16) for _ in range(2)]
    streams[1][:, 2, :12] += goals.raw
    return streams, goals


def test_the_best_patch_is_the_one_that_tells_the_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptrons, "STEPS", 20)
    streams, goals = planted(80)
    every, numbers = KeptTokens.of(4, slice(0, 4), [0]), goals.raw
    kept = [every.take(stream.half()) for stream in streams]
    reader = TokenProbes.fit(POSE, kept, goals, 60, every, {"corner": 0})
    assert reader.tokens == [BEST, "corner", POOLED]
    assert reader.places[1].tolist() == [2, 0, 4]
    read = reader.read(streams)
    assert read[LINEAR].shape == read[MLP].shape == (2, 3, 80, 12)
    told, noise = ((read[LINEAR][1, i, 60:] - numbers[60:]).square().mean() for i in (0, 1))
    assert told < 0.2 * noise


def test_few_patches_of_many_are_kept_and_read_at_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "MOST_PATCHES", 3)
    monkeypatch.setattr(perceptrons, "STEPS", 20)
    streams, goals = planted(80)
    padded = [torch.cat((torch.randn(80, 2, 16), s, torch.randn(80, 3, 16)), 1) for s in streams]
    kept = KeptTokens.of(9, slice(2, 9), [0, 5])
    assert kept.kept.tolist() == [0, 2, 5, 8]
    taken = kept.take(padded[0])
    assert torch.equal(taken.tokens, padded[0][:, [0, 2, 5, 8]])
    torch.testing.assert_close(taken.mean, padded[0][:, 2:].mean(1))
    more = KeptTokens.of(9, slice(2, 9), [0, 4])  # the planted patch is token 4
    reader = TokenProbes.fit(
        POSE, [more.take(s) for s in padded], goals, 60, more, {"camera": 0, "told": 4}
    )
    assert reader.tokens == [BEST, "camera", "told", POOLED]
    assert reader.places[1].tolist() == [4, 0, 4, 9]
    assert reader.read(padded)[LINEAR].shape == (2, 4, 80, 12)


def test_one_ridge_is_that_of_the_normal_equations() -> None:
    """Of standardised features, for which `b - 1` is the mean of the Gram matrix's diagonal."""
    features, outputs = torch.randn(60, 5) * torch.arange(1, 6) + 2, torch.randn(60, 3)
    equations = NormalEquations(5, 3, dtype=torch.float64)
    equations.add(features, outputs)
    weight, bias = equations.solve(standardised=True).weight(PENALTY * 60 / 59)
    z = (features - features.mean(0)) / features.std(0)
    expected = z @ regress(z, outputs - outputs.mean(0), PENALTY) + outputs.mean(0)
    torch.testing.assert_close(features @ weight + bias, expected, atol=1e-4, rtol=1e-4)
