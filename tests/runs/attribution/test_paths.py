import pytest
import torch

from prob3r.models import VGGT, DUSt3R, DUSt3RConfig, MultiViewModel, random
from prob3r.models.sites import Site
from prob3r.runs.attribution import TokenMean, attribute
from prob3r.runs.edits import HeadAblation, Skip
from prob3r.runs.replay import Replay
from tests.models.examples import EXAMPLES
from tests.runs.attribution.conftest import noise, smooth

MODELS = {
    "dust3r": lambda: random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2), seed=1).double(),
    "vggt": lambda: EXAMPLES["vggt"]().double(),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_path_of_a_sublayer_ends_in_its_exact_effect(name: str) -> None:
    model: MultiViewModel = MODELS[name]()
    tolerance = 2e-3 if name == "dust3r" else 1e-2  # VGGT's heads have corners
    assert isinstance(model, DUSt3R | VGGT)
    views = noise((32, 32) if name == "dust3r" else (28, 28))
    sites = ["dec2.*.mlp", "dec2.1.*attn", "enc1.0.mlp"]
    found = attribute(model, views, smooth, sites=sites, steps=64)
    replay, measure = Replay(model, views), smooth(views, None)
    clean = replay.clean.output
    assert clean is not None
    for site, effect in found.sublayers.items():
        cut = replay.run([Skip(site)]).output
        assert cut is not None
        exact = measure(cut) - measure(clean)
        torch.testing.assert_close(effect.sum(1), exact, rtol=tolerance, atol=1e-7)
    for site, effect in found.heads.items():
        cut = replay.run([HeadAblation(str(Site.parse(site).residual))]).output
        assert cut is not None
        exact = measure(cut) - measure(clean)
        torch.testing.assert_close(effect.sum((1, 2)), exact, rtol=tolerance, atol=1e-7)


def test_a_short_path_is_the_gradient_of_the_run() -> None:
    model = MODELS["dust3r"]()
    views = noise((32, 32))
    with torch.no_grad():
        for weight in model.dec_blocks2[1].mlp.fc2.parameters():
            weight *= 1e-6  # then the way to nothing is short
    one, many = (
        attribute(model, views, smooth, TokenMean(), sites=["dec2.1.mlp"], steps=steps)
        for steps in (1, 4)
    )
    torch.testing.assert_close(one.sublayers, many.sublayers, rtol=1e-5, atol=1e-9)
