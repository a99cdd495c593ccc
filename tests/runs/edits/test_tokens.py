"""Tokens of the stream replaced, in every mode, beside sums written out."""

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import random
from prob3r.runs.edits import TOKEN_MODES, TokenAblation, token, token_means
from prob3r.runs.trace import Trace, trace
from prob3r.scenes import View, Views
from tests.models.examples import VGGT_CONFIG

SITES = "dec*"
REGISTERS = slice(1, 3)  # after the camera token


def scenes(seed: int) -> Views:
    generator = torch.Generator().manual_seed(seed)
    image = (2 * torch.rand(3, 3, 28, 42, generator=generator) - 1 for _ in range(3))
    return Views(tuple(View(each) for each in image))


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    return random(VGGT_CONFIG, seed=1)


@pytest.fixture(scope="module")
def clean(model) -> Trace:  # type: ignore[no-untyped-def]
    return trace(model, scenes(0), SITES)


def test_means_are_of_each_special_token_and_of_all_patches(model, clean: Trace) -> None:  # type: ignore[no-untyped-def]
    means = token_means(model, [scenes(0)[:2], scenes(0)[2]], SITES)
    assert means.scenes == 3
    assert set(means.values) == set(clean)
    for site, (mean, deviation) in means.values.items():
        record = torch.Tensor(clean[site]).double()
        parts: list[Tensor] = [record[:, [i]] for i in range(3)] + [record[:, 3:]]
        for row, part in enumerate(parts):
            flat = part.flatten(0, 1)
            torch.testing.assert_close(mean[row].double(), flat.mean(0), rtol=1e-4, atol=1e-5)
            spread = flat.std(0, correction=0)
            torch.testing.assert_close(deviation[row].double(), spread, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", TOKEN_MODES)
def test_the_tokens_hold_what_the_mode_says_and_the_others_are_computed(  # type: ignore[no-untyped-def]
    model, clean: Trace, mode: str
) -> None:
    source = {
        "zero": None,
        "mean": token_means(model, [scenes(0)], SITES),
        "noise": token_means(model, [scenes(0)], SITES),
        "resample": trace(model, scenes(1), SITES),
    }[mode]
    edit = TokenAblation(SITES, mode=mode, patches=token("register*"), source=source)
    run = trace(model, scenes(0), SITES, [edit])
    again = trace(model, scenes(0), SITES, [edit])
    for site in clean:
        held = torch.Tensor(run[site])[:, REGISTERS]
        if mode == "zero":
            assert not held.any()
        elif mode == "mean":
            expected = source.values[site][0][REGISTERS]
            torch.testing.assert_close(held, expected.expand_as(held))
        elif mode == "resample":
            assert torch.equal(held, torch.Tensor(source[site])[:, REGISTERS])
        else:
            assert torch.equal(held, torch.Tensor(again[site])[:, REGISTERS])
    patches = [torch.Tensor(each["dec2.1.global_mlp"])[:, 3:] for each in (run, clean)]
    assert patches[0].isfinite().all()
    assert (patches[0] - patches[1]).abs().max() > 1e-4
    if mode != "zero":  # at the input the registers are the same of every scene
        embedded = [torch.Tensor(each["dec2.embed"]) for each in (run, clean)]
        torch.testing.assert_close(*embedded, rtol=1e-3, atol=1e-3)


def test_noise_has_the_mean_and_the_deviation_of_the_data_and_depends_on_its_seed(model) -> None:  # type: ignore[no-untyped-def]
    means = token_means(model, [scenes(0)], SITES)
    draws = []
    for seed in range(150):
        edit = TokenAblation("dec2.1.mlp", mode="noise", patches=[3, 4], source=means, seed=seed)
        run = trace(model, scenes(0), "dec2.1.mlp", [edit], output=False)
        draws.append(torch.Tensor(run["dec2.1.mlp"])[:, [3, 4]].flatten(0, 1))
    drawn = torch.cat(draws)
    mean, deviation = (values[-1] for values in means.values["dec2.1.mlp"])
    assert ((drawn.mean(0) - mean) / deviation).abs().max() < 0.2
    assert (drawn.std(0) / deviation - 1).abs().max() < 0.15


def test_what_does_not_fit_is_refused(model) -> None:  # type: ignore[no-untyped-def]
    means = token_means(model, [scenes(0)], "dec1.*")
    other = token_means(random(VGGT_CONFIG, seed=2), [scenes(0)], "dec1.*")
    for edit, reason in (
        (TokenAblation(SITES, mode="shuffle"), "must be one of zero, mean, noise, resample"),
        (TokenAblation(SITES, mode="mean"), "needs `source`, the result of token_means"),
        (TokenAblation(SITES, mode="resample"), "needs `source`, a trace"),
        (TokenAblation("dec2.0.mlp", mode="mean", source=means), "finds no 'dec2.0.mlp'"),
        (TokenAblation("dec1.0.mlp", mode="mean", source=other), "means of this model"),
        (TokenAblation(SITES, patches=token("class")), "selects no token"),
    ):
        with pytest.raises(Prob3rError, match=reason):
            trace(model, scenes(0), edits=[edit])
    with pytest.raises(Prob3rError, match="no scenes to take the means over"):
        token_means(model, [], SITES)
