"""The page in a browser, opened from disk."""

from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from prob3r.measures.arrows import Arrows
from prob3r.measures.camera_path import CameraCurves
from prob3r.report import Explanation, write_page
from tests.report.stand_ins import CONFIG

SIZES = [(1280, 800), (390, 844)]

pytestmark = pytest.mark.browser


def opened(browser, explanation: Explanation, folder: Path, size=SIZES[0]):
    """The page, ready, and the list of what its console complains of."""
    write_page(explanation, folder / "page.html")
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    complaints: list[str] = []
    tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else 0)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else 0)
    tab.goto((folder / "page.html").as_uri())
    tab.wait_for_selector("html[data-ready]")
    return tab, complaints


SHOWN = """canvas => new Promise(done =>
  requestAnimationFrame(() => requestAnimationFrame(() => done(canvas.toDataURL()))))"""


def drawn(tab, selector: str) -> str:
    """What a canvas shows once it has come to rest, on a machine however slow."""
    tab.wait_for_timeout(400)
    picture = tab.eval_on_selector(selector, SHOWN)
    for _ in range(50):
        before, picture = picture, tab.eval_on_selector(selector, SHOWN)
        if picture == before:
            return picture
        tab.wait_for_timeout(100)
    raise AssertionError(f"{selector} never came to rest.")


COUNT = """(canvas, paint) => {
  const { width, height } = canvas;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const like = (i) => paint.every((value, c) => Math.abs(data[i + c] - value) < 3);
  let found = 0;
  for (let i = 0; i < data.length; i += 4) found += like(i);
  return found;
}"""


def pixels_like(tab, selector: str, colour: str) -> int:
    """How many pixels of a canvas are of a colour."""
    return tab.eval_on_selector(selector, COUNT, list(bytes.fromhex(colour)))


def move(tab, step: int) -> None:
    tab.eval_on_selector(
        "#layers [data-role=step]",
        f"s => {{ s.value = {step}; s.dispatchEvent(new Event('input', {{ bubbles: true }})); }}",
    )
    tab.wait_for_timeout(1500)


@pytest.mark.parametrize(("which", "size"), [("learning", SIZES[0]), ("guessing", SIZES[1])])
def test_it_opens_without_complaint_or_overflow(browser, which, size, request, tmp_path) -> None:
    tab, complaints = opened(browser, request.getfixturevalue(which), tmp_path, size)
    widths = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    width, room = tab.evaluate(widths)
    assert width <= room
    tab.wait_for_timeout(300)
    assert complaints == []
    tab.close()


def test_the_slider_moves_the_points_and_names_the_site(browser, learning, tmp_path) -> None:
    tab, complaints = opened(browser, learning, tmp_path)
    before = drawn(tab, "#layers canvas")
    assert "decoder input" in tab.inner_text("[data-role=where]")
    move(tab, 5)
    middle = drawn(tab, "#layers canvas")
    assert "block 1 · cross-attention" in tab.inner_text("[data-role=where]")
    shown = tab.inner_text(".curve .value")
    expected = learning.measurements.curves[2]["rotation_error"][5]
    assert shown == f"{expected:.1f}°"
    move(tab, 10)
    assert len({before, middle, drawn(tab, "#layers canvas")}) == 3
    tab.click("#layers [data-role=play]")
    tab.wait_for_timeout(1200)
    assert "decoder input" not in tab.inner_text("[data-role=where]")
    assert "output" not in tab.inner_text("[data-role=where]")
    assert complaints == []
    tab.close()


def test_arrows_show_what_the_last_sublayer_did(browser, learning, tmp_path) -> None:
    tab, complaints = opened(browser, learning, tmp_path)
    move(tab, 5)
    plain = drawn(tab, "#layers canvas")
    note = tab.locator("[data-role=arrows-note]")
    assert not note.is_visible()
    box = tab.get_by_role("checkbox", name="arrows")
    box.focus()
    box.press("Space")
    assert drawn(tab, "#layers canvas") != plain
    assert pixels_like(tab, "#layers canvas", "aa4499") > 50
    found = Arrows.of(
        learning.measurements.steps,
        learning.measured.points,
        learning.measured.reference,
        CONFIG.patch,
    )
    assert f"mean length {found.lengths[5]:.3f} of the pair's unit" in note.inner_text()
    assert f"to the truth +{found.alignments[5]:.2f}" in note.inner_text()
    for step, words in ((0, "decoder input"), (10, "model output")):
        move(tab, step)
        assert f"No arrows: the {words}" in note.inner_text()
        drawn(tab, "#layers canvas")
        assert pixels_like(tab, "#layers canvas", "aa4499") == 0
    box.press("Space")
    move(tab, 5)
    assert drawn(tab, "#layers canvas") == plain
    assert not note.is_visible()
    assert complaints == []
    tab.close()


def test_without_truth_arrows_have_a_length_alone(browser, guessing, tmp_path) -> None:
    tab, complaints = opened(browser, guessing, tmp_path, SIZES[1])
    tab.check("#layers [data-role=arrows]")
    move(tab, 4)
    text = tab.inner_text("[data-role=arrows-note]")
    assert "block 1 · self-attention" in tab.inner_text("[data-role=where]")
    assert "since block 0 · MLP; mean length" in text
    assert "truth" not in text
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES[1][0]
    assert complaints == []
    tab.close()


def test_a_clicked_patch_draws_where_it_looks(browser, knowing, tmp_path) -> None:
    tab, complaints = opened(browser, knowing, tmp_path)
    heat = ".heatmap:last-child canvas"
    before = drawn(tab, heat)
    photograph = tab.locator("#looks .photo").nth(1)
    box = photograph.bounding_box()
    photograph.click(position={"x": box["width"] * 0.1, "y": box["height"] * 0.9})
    assert "View 2, row 5, column 0" in tab.inner_text("[data-role=status]")
    assert drawn(tab, heat) != before
    key = knowing.measured.attention[2, 1].keys[2, -1, 30, 0].item()
    label = tab.get_attribute(".heatmap:last-child", "aria-label")
    assert f"row {key // 6}, column {key % 6} of view 1" in label
    assert tab.locator(".lines .chosen").count() == 1
    assert tab.locator(".lines .best").count() > 3

    tab.locator("#looks .photo").nth(0).press("ArrowRight")
    assert "View 1, row" in tab.inner_text("[data-role=status]")
    tab.select_option("#looks [data-role=head]", "1")
    assert "head 1" in tab.inner_text("[data-role=status]")
    assert complaints == []
    tab.close()


def test_the_reconstruction_can_be_turned_filtered_and_reset(browser, knowing, tmp_path) -> None:
    tab, complaints = opened(browser, knowing, tmp_path)
    canvas = "#reconstruction canvas"
    home = drawn(tab, canvas)
    tab.press(canvas, "ArrowLeft")
    turned = drawn(tab, canvas)
    tab.press(canvas, "0")
    assert turned != home
    assert drawn(tab, canvas) == home
    for choice in ("view", "confidence"):
        tab.locator(f"#reconstruction .choice span:text-is('{choice}')").click()
        assert drawn(tab, canvas) != home
    tab.uncheck("#reconstruction [data-role=view2]")
    assert drawn(tab, canvas) != home
    assert complaints == []
    tab.close()


def test_the_table_sorts_and_chooses(browser, knowing, tmp_path) -> None:
    tab, complaints = opened(browser, knowing, tmp_path)
    tab.click("#heads th button:text-is('Entropy')")
    first = tab.inner_text("#heads tbody tr:first-child")
    lowest = min(knowing.measurements.heads, key=lambda head: head.entropy)
    assert first.split()[:2] == [str(lowest.block), str(lowest.head)]
    assert tab.get_attribute("#heads th:nth-child(3)", "aria-sort") == "ascending"
    tab.click("#heads tbody tr:first-child button")
    assert f"block {lowest.block}, head {lowest.head}" in tab.inner_text("[data-role=status]")
    assert complaints == []
    tab.close()


def test_a_heads_effect_leads_to_where_it_looks(browser, swept, tmp_path) -> None:
    tab, complaints = opened(browser, swept, tmp_path)
    cells = tab.locator("#effects td button")
    assert cells.count() == 2 * sum(h.head is not None for h in swept.measurements.heads)
    chosen = tab.get_by_role("button", name="Show block 2, head 1").first
    chosen.click()
    assert tab.locator("#heads tr.chosen td").all_inner_texts()[:2] == ["2", "1"]
    assert complaints == []
    tab.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_camera_head_has_a_number_at_every_block(browser, knowing, tmp_path, size) -> None:
    tab, _ = opened(browser, knowing, tmp_path)
    assert tab.locator("#camera-path").count() == 0
    tab.close()
    path = CameraCurves((0, 1, 2), "final state", {2: [30.0, 4.0, 0.0]}, {2: [nan, 20.0, 0.0]})
    measurements = replace(knowing.measurements, camera_path=path)
    made = replace(knowing, measured=knowing.measured._replace(measurements=measurements))
    tab, complaints = opened(browser, made, tmp_path, size)
    assert tab.locator("section:has(#camera-path) p").inner_text().count("its answer at the last")
    numbers = tab.locator("#camera-path .value")
    assert numbers.all_inner_texts() == ["0.0°", "0.0°"]
    chart = tab.locator("#camera-path svg").first
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] * 42 / 320, "y": box["height"] / 2})
    assert numbers.all_inner_texts() == ["30.0°", "–"]
    chart.click(position={"x": box["width"] * 175 / 320, "y": box["height"] / 2})
    assert numbers.all_inner_texts() == ["4.0°", "20.0°"]
    assert complaints == []
    tab.close()


def test_there_are_no_effects_unless_they_were_measured(browser, guessing, tmp_path) -> None:
    tab, _ = opened(browser, guessing, tmp_path)
    assert not tab.locator("#effects").is_visible()
    tab.close()
