"""What decides a camera, as the page carries it."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch

from prob3r.measures.influence import Influence
from prob3r.report import Explanation
from prob3r.report.encode import encode
from prob3r.report.page import page

HEADING = "What in these pictures decides where camera 2 stands"


@pytest.fixture(scope="module")
def asked(knowing: Explanation) -> Explanation:
    """An explanation whose patches have effects from -4 to 2 degrees."""
    effects = torch.linspace(-4, 2, 36)
    found = Influence(2, "rotation", "°", "the camera turns further", 10.0, (effects, 0 * effects))
    return replace(knowing, influence=[found])


def test_effects_are_bytes_on_one_scale_for_all_views(asked: Explanation) -> None:
    (carried,) = encode(asked)["influence"]
    assert carried["most"] == 4
    first, second = (
        np.frombuffer(base64.b64decode(text), np.int8).astype(float) for text in carried["maps"]
    )
    effects = asked.influence[0].maps[0].numpy()
    np.testing.assert_allclose(first / 127 * carried["most"], effects, atol=4 / 127)
    assert first.min() == -127
    assert not second.any()
    assert carried["shares"] == [1.0, 0.0]


def test_the_section_is_there_if_a_camera_could_be_asked_about(
    asked: Explanation, knowing: Explanation
) -> None:
    assert HEADING in page(asked)
    assert not knowing.influence  # nothing goes through a model that knows the truth
    assert HEADING not in page(knowing)


def test_the_json_has_the_effect_of_every_patch(asked: Explanation) -> None:
    (row,) = asked.to_json()["influence"]
    assert (row["camera"], row["of"], row["value"]) == (2, "rotation", 10.0)
    assert row["maps"][0] == pytest.approx(asked.influence[0].maps[0].tolist())


def test_a_patch_under_the_pointer_says_its_effect(asked: Explanation, browser, tmp_path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(asked), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-ready]", timeout=120_000)
    canvas = tab.locator("#influence canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] - 2, "y": box["height"] - 2})
    assert "row 5, column 5: +2.0" in tab.locator("#influence figcaption").first.inner_text()
    assert "View 1 holds 100 %" in tab.locator("#influence").inner_text()
    tab.close()
