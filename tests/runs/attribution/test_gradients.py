import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.models.sites import Site
from prob3r.runs.attribution import AnotherRun, Attribution, Measure, TokenMean, attribute
from prob3r.runs.edits import Transplant
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from tests.checks import every
from tests.models.examples import EXAMPLES
from tests.models.test_adapter import EXAMPLE
from tests.runs.attribution.conftest import noise, nudged, smooth

KINDS = ("sublayers", "heads", "streams", "edges")


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2), seed=1).double()


@pytest.fixture(scope="module")
def views() -> Views:
    return noise((32, 32))


@pytest.mark.parametrize("name", [*EXAMPLES, "adapter"])
def test_effects_are_those_of_a_small_step_in_every_architecture(name: str) -> None:
    if name == "adapter":
        torch.manual_seed(3)
        model = EXAMPLE.adapted(EXAMPLE.TwoViews()).double()
        views = noise((64, 64))
    else:
        model = EXAMPLES[name]().double()
        patch = model.config.patch
        views = noise((2 * patch, 3 * patch), 2 if model.most_views == 2 else 3)
    found = attribute(model, views, smooth, kinds=KINDS)
    for kind in KINDS:
        effects = getattr(found, kind)
        by_site = {
            site if kind in ("sublayers", "streams") else str(Site.parse(site).probs): effect
            for site, effect in effects.items()
        }
        known = (
            model.sites(views.count) if kind == "streams" else model.attention_sites(views.count)
        )
        if kind != "sublayers":
            assert by_site.keys() == set(known)
        generator = torch.Generator().manual_seed(1)
        shares = {site: float(torch.rand((), generator=generator)) for site in by_site}
        expected = nudged(model, views, smooth(views, None), kind, shares)
        total = sum(share * by_site[site].flatten(1).sum(1) for site, share in shares.items())
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-9)


def test_the_effect_of_one_head_of_one_token_is_its_own(model: DUSt3R, views: Views) -> None:
    found = attribute(model, views, smooth, kinds=["heads"])
    measure, site, step = smooth(views, None), "dec2.1.cross_attn.heads", 1e-5
    heads = Tensor(trace(model, views, [site])[site])
    values = []
    for sign in (1, -1):
        moved = heads.clone()
        moved[:, 1, 3] *= 1 - sign * step
        edit = Transplant(site, {site: moved})
        output = trace(model, views, edits=[edit]).output
        assert output is not None
        values.append(measure(output))
    expected = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(found.heads[site][:, 1, 3], expected, rtol=1e-4, atol=1e-9)


def test_of_nothing_the_edges_of_a_head_add_up_to_the_head(model: DUSt3R, views: Views) -> None:
    found = attribute(model, views, smooth, kinds=("heads", "edges", "maps"))
    for name, edges in found.edges.items():
        place = Site.parse(name)
        heads, maps = found.heads[str(place.read("heads"))], found.maps[str(place.probs)]
        assert maps.shape == (2, 2, 4, 4)
        torch.testing.assert_close(edges.sum(-1), heads.sum(-1))
        torch.testing.assert_close(maps.sum(-1), heads)


def test_another_run_that_is_near_says_what_patching_does(model: DUSt3R, views: Views) -> None:
    near = views.map(lambda image: image + 1e-3 * torch.randn_like(image))
    found = attribute(model, views, smooth, AnotherRun(near), kinds=("streams", "heads", "edges"))
    measure = smooth(views, None)
    plain, other = (trace(model, v, "dec2.*").output for v in (views, near))
    assert plain is not None
    assert other is not None
    change = measure(other) - measure(plain)
    # All that the scalar follows from is the last stream of view 2.
    last = found.streams["dec2.1.mlp"].sum(1)
    torch.testing.assert_close(last, change, rtol=0.02, atol=0)
    # A stream and its block's keys: view 1 as it enters, and view 2 as it enters.
    first = sum(found.streams[f"enc{view}.embed"].sum(1) for view in (1, 2))
    torch.testing.assert_close(first, change, rtol=0.02, atol=0)


def test_uniform_attention_has_no_effect_where_attention_is_uniform() -> None:
    model = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 1), seed=1).double()
    with torch.no_grad():
        model.dec_blocks2[0].cross_attn.projq.weight.zero_()
        model.dec_blocks2[0].cross_attn.projq.bias.zero_()
    found = attribute(model, noise((32, 32)), smooth, TokenMean(), kinds=["maps"])
    assert found.maps["dec2.0.cross_attn.probs"].abs().max() < 1e-8
    assert found.maps["dec2.0.self_attn.probs"].abs().max() > 1e-6


def test_what_the_scalar_does_not_follow_from_has_no_effect(model: DUSt3R, views: Views) -> None:
    found = attribute(model, views, smooth)
    assert every(found.sublayers["dec1.1.mlp"] == 0)
    assert every(found.heads["dec1.1.cross_attn.heads"] == 0)
    assert found.sublayers["dec1.0.mlp"].abs().max() > 0


def test_a_scene_is_explained_as_it_is_alone(model: DUSt3R, views: Views) -> None:
    both = attribute(model, views, smooth)
    alone = attribute(model, views[1], smooth)
    assert both.value[1] == pytest.approx(float(alone.value[0]))
    for part, same in zip(both.parts(1), alone.parts(), strict=True):
        assert (part.site, part.head) == (same.site, same.head)
        assert part.effect == pytest.approx(same.effect, abs=1e-6)


def test_the_model_is_left_as_it_was(model: DUSt3R, views: Views) -> None:
    for weight in model.parameters():
        weight.grad = None
    learning = [weight.requires_grad for weight in model.parameters()]
    attribute(model, views, smooth)
    assert [weight.requires_grad for weight in model.parameters()] == learning
    assert every(weight.grad is None for weight in model.parameters())
    assert "forward" not in vars(model.enc_blocks[0])


def test_nothing_before_the_parts_is_differentiated(model: DUSt3R, views: Views) -> None:
    runs: list[str] = []
    hooks = [
        next(block.children()).register_forward_pre_hook(lambda *_, name=name: runs.append(name))
        for name, block in (("encoder", model.enc_blocks[0]), ("decoder", model.dec_blocks2[1]))
    ]
    every_part = attribute(model, views, smooth)
    assert runs.count("encoder") == 2  # a block that is differentiated runs twice
    runs.clear()
    some = attribute(model, views, smooth, sites=["dec*"])
    for hook in hooks:
        hook.remove()
    assert runs == ["encoder", "decoder", "decoder"]
    for site, effects in some.sublayers.items():
        torch.testing.assert_close(effects, every_part.sublayers[site])


def test_the_parts_that_matter_most_come_first(model: DUSt3R, views: Views) -> None:
    found = attribute(model, views, smooth, sites=["dec2.*"])
    top = found.top(5, scene=1)
    effects = [abs(part.effect) for part in top]
    assert effects == sorted(effects, reverse=True)
    table = found.table()
    rows = table[table.scene == 1]
    assert len(rows) == 6 + 8  # three sublayers and two times two heads, of two blocks
    assert effects[0] == pytest.approx(rows.effect.abs().max())
    assert every(rows.site.str.startswith("dec2."))


def _cut_off(views: Views, clean: Prediction) -> Measure:
    return lambda output: output.points[0].detach().sum((1, 2, 3))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ["neurons"]}, "'neurons' cannot be attributed; give some of sublayers"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": 2, "kinds": ["maps"]}, "Edges have no path"),
        ({"sites": "dec3.*"}, "No site of this model matches 'dec3"),
        ({"scalar": _cut_off}, "No gradient goes through this DUSt3R"),
        ({"baseline": AnotherRun(noise((32, 48)))}, "The other run has images of shape"),
    ],
)
def test_what_cannot_be_attributed_is_one_sentence(
    model: DUSt3R, views: Views, options: dict[str, object], said: str
) -> None:
    arguments = {"scalar": smooth, **options}
    with pytest.raises(Prob3rError, match=said.replace("(", r"\(")):
        attribute(model, views, **arguments)


def test_a_kind_that_was_not_asked_for_is_empty(model: DUSt3R, views: Views) -> None:
    found = attribute(model, views, smooth, kinds=["streams"])
    assert isinstance(found, Attribution)
    assert found.streams
    assert not found.parts()
