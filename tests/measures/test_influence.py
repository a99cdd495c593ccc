import pytest
import torch

from prob3r.measures import influence
from prob3r.measures.influence import influences, meeting
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.runs.edits import Transplant
from prob3r.runs.trace import trace
from prob3r.scenes import View, Views
from prob3r.scenes.views import views_of
from tests.models.examples import EXAMPLES


def noise(count: int) -> Views:
    generator = torch.Generator().manual_seed(0)
    return views_of(
        [View(2 * torch.rand(1, 3, 28, 42, generator=generator) - 1) for _ in range(count)]
    )


def test_every_camera_is_asked_about_every_patch_of_every_view() -> None:
    found = influences(EXAMPLES["vggt"](), noise(3))
    assert [(each.camera, each.of) for each in found] == [
        (camera, of) for camera in (2, 3) for of in ("rotation", "translation")
    ]
    for each in found:
        assert [len(effects) for effects in each.maps] == [6, 6, 6]  # no special token
        assert sum(each.shares) == pytest.approx(1)
        assert each.to_json()["maps"][2] == pytest.approx(each.maps[2].tolist())


def test_only_so_many_cameras_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "MOST_CAMERAS", 1)
    done: list[float] = []
    found = influences(EXAMPLES["vggt"](), noise(3), done.append)
    assert {each.camera for each in found} == {2}
    assert done == [0.0, 0.5]


def test_a_camera_that_is_not_found_is_left_out() -> None:
    model = random(DUSt3RConfig((28, 28), 14, 16, 1, 2, 24, 2, 2), seed=1)
    with torch.no_grad():
        for weight in model.downstream_head2.parameters():
            weight.zero_()
    assert not influences(model, noise(2))


def test_the_effect_of_a_patch_is_that_of_a_small_step_to_the_mean() -> None:
    model, views = EXAMPLES["vggt"](), noise(2)
    assert not isinstance(model, DUSt3R)
    site = meeting(model, 2)[1]
    assert site == "dec2.embed"
    found = next(each for each in influences(model, views) if each.of == "translation")
    stream = trace(model, views, [site])[site]
    tokens, values = torch.Tensor(stream), []
    measure = influence.Translation(2)
    plain = trace(model, views).output
    assert plain is not None
    for step in (0.05, -0.05):
        moved = tokens.clone()
        row = 4 + stream.tokens.patches(tokens.shape[1]).start
        moved[0, row] += step * (tokens.mean(1)[0] - tokens[0, row])
        output = trace(model, views, edits=[Transplant(site, {site: moved})]).output
        assert output is not None
        values.append(float(measure(views, plain)(output)))
    assert (values[0] - values[1]) / 0.1 == pytest.approx(float(found.maps[1][4]), rel=0.1)


@pytest.mark.parametrize("name", ["vggt", "pi3"])
def test_all_cameras_are_asked_about_in_one_run(name: str) -> None:
    model, views, runs = EXAMPLES[name](), noise(3), list[None]()
    assert isinstance(model, torch.nn.Module)
    model.register_forward_pre_hook(lambda *_: runs.append(None))
    together = influences(model, views)
    assert len(runs) == 1
    assert len(together) == 2 * (views.count - 1)
    for found in together:
        alone = influence.influence(model, views, found.camera, found.of)
        assert found.value == pytest.approx(alone.value)
        for one, other in zip(found.maps, alone.maps, strict=True):
            assert one.abs().max() > 0
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
