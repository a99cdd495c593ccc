"""Explanations of three views, by a model whose views attend jointly, special tokens in front."""

from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import VGGT, VGGTConfig, random
from prob3r.models.protocol import trunk
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.report import Explanation, explain, write_page
from prob3r.scenes import View
from prob3r.scenes.views import views_of
from tests.report.stand_ins import CONFIG, random_probes

SHAPE = VGGTConfig(
    image_size=(42, 56), patch=14, width=16, depth=4, heads=2, registers=1, enc_depth=0,
    head_blocks=(0, 1, 2, 3), features=8, channels=(8, 8, 8, 8), cam_depth=1, cam_heads=2,
)  # fmt: skip


def three(height: int = 42, width: int = 56):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 3, height, width, generator=generator) * 2 - 1
    return views_of([View(image) for image in images], ("three",))


@pytest.fixture(scope="module")
def explained() -> Explanation:
    model = random(SHAPE)
    assert isinstance(model, VGGT)
    stack = trunk(model)
    sites = [str(site) for site in stack.sites(2)]
    bank = ProbeBank(sites, ProbeConfig(stack.width, 14, 1))
    return explain(model, three(), bank, model_name="joint")


def test_every_view_has_points_curves_and_sentences(explained: Explanation) -> None:
    m = explained.measurements
    assert set(m.curves) == {1, 2, 3}
    assert set(m.finals) == {2, 3}
    assert all(len(points) == 3 for points in explained.measured.points)
    text = " ".join(sentence.text for sentence in explained.happened + explained.trust)
    assert "view 2" in text.lower()
    assert "view 3" in text.lower()
    content = explained.to_json()
    assert set(content["finals"]) == {"view2", "view3"}
    assert {row["view"] for row in content["heads"]} == {2, 3}
    assert content["camera_path"]["blocks"] == [0, 1, 2, 3]
    assert len(content["camera_path"]["rotation_error"]["view3"]) == 4


def test_attention_between_views_is_the_rest_of_what_special_tokens_take(
    explained: Explanation,
) -> None:
    relations = explained.measurements.relations
    shares = torch.tensor(relations.attention)
    assert shares.shape == (4, 3, 3)
    assert (shares > 0).all()
    assert (shares.sum(-1) < 1).all()
    # The strongest keys are all keys in so small a model: their sum over a view is its share.
    kept = explained.measured.attention[2, 3].probs[:, :-1].sum(-1).mean((1, 2))
    torch.testing.assert_close(shares[:, 1, 2], kept)
    assert explained.to_json()["relations"]["blocks"] == [0, 1, 2, 3]


def test_attention_is_among_the_patches_of_the_other_view(explained: Explanation) -> None:
    attention = explained.measured.attention
    assert set(attention) == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}
    for kept in attention.values():
        assert kept.keys.shape == (4, 3, 12, 12)
        assert set(kept.keys.unique().tolist()) == set(range(12))
        assert (kept.probs.sum(-1) < 1).all()  # the rest is on special tokens and other views


def test_a_model_of_two_views_says_how_many_it_takes() -> None:
    model = random(CONFIG)
    with pytest.raises(Prob3rError, match="takes at most 2 views, and there are 3"):
        explain(model, three(48, 48), random_probes(model), model_name="pair")


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_page_shows_every_view(
    browser, explained: Explanation, tmp_path: Path, size: tuple[int, int]
) -> None:
    write_page(explained, tmp_path / "page.html")
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("html[data-ready]")
    assert tab.locator("#looks .photo").count() == 3
    assert tab.locator("#reconstruction [data-role=views] input").count() == 3
    assert tab.locator(".card.views tbody tr").count() == 3
    assert tab.locator("#relations .matrix").count() == 2
    tab.locator("#relations .small").nth(2).click()
    assert "Block 2" in tab.inner_text("#relations figcaption >> nth=0")
    assert "block 2" in tab.inner_text("#looks [data-role=status]")
    tab.locator("#looks .photo").nth(2).click()
    tab.select_option("#looks [data-role=other]", "1")
    assert "View 3" in tab.inner_text("#looks [data-role=status]")
    assert "→ view 2" in tab.inner_text("#looks [data-role=status]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert complaints == []
    tab.close()
