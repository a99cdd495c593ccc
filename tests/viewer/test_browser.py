"""The viewer in a browser, driven as a person would."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prob3r.scenes import Pair, Views
from prob3r.viewer import Viewer, saving
from prob3r.viewer.experiment import Experiment, ProbedModel
from tests.viewer.conftest import Given, joint_probed, probed_of

BOOKS = Path(__file__).parents[2] / "src/prob3r/scenes/pairs/books"

WORDS = "attention of view 2 to view 1 in global attention of all blocks (mask)"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def viewer(probed: ProbedModel, room: Pair) -> Iterator[Viewer]:
    others = {"other probes": lambda: ProbedModel("random0", probed.model, probed_of(0, 2).bank)}
    running = Viewer(probed, Given(room), others, port=0)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def page(browser, viewer: Viewer) -> Iterator:
    """A page on the viewer, and what its console complains of: opening one takes seconds."""
    tab, complaints = opened(browser, viewer)
    yield tab, complaints, viewer.visits[max(viewer.visits)]
    tab.close()


@pytest.fixture
def tab(page, caplog) -> Iterator:
    """The page, and its visit; what it or the viewer's log complains of fails the test."""
    tab, complaints, visit = page
    with caplog.at_level(logging.WARNING):
        yield tab, visit
    assert complaints == []
    assert [r.getMessage() for r in caplog.records if r.name.startswith("prob3r")] == []


def opened(browser, viewer: Viewer, width: int = 800, height: int = 560):
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(viewer.url)
    page.wait_for_selector("text=The model's output")
    return page, complaints


def until(page, condition) -> None:
    for _ in range(1200):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it never came true")


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    page.get_by_role("option", name=option, exact=True).locator("visible=true").click()


def drag(page, share: float) -> None:
    """Drag the timeline's thumb to a share of its length."""
    slider = page.locator(".mantine-Slider-trackContainer").first
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    x, y = track["x"], track["y"] + track["height"] / 2
    page.mouse.move(x + track["width"], y)
    page.mouse.down()
    page.mouse.move(x + track["width"] * (1 + share) / 2, y, steps=4)
    page.mouse.move(x + track["width"] * share, y, steps=4)
    page.mouse.up()


def test_the_timeline_is_dragged_and_played(tab) -> None:
    tab, visit = tab
    session = visit.session
    drag(tab, 0.4)
    tab.wait_for_selector("text=Block 1's self-attention")
    until(tab, lambda: session.timeline.position == 4)
    angle = session.run.curves[2]["rotation_error"][4]
    tab.wait_for_selector(f"svg[aria-label^='Rotation of camera 2'] >> text={angle:.1f}°")
    tab.get_by_role("button", name="Play").click()
    until(tab, lambda: session.timeline.target > 4)
    tab.get_by_role("button", name="Pause").click()
    until(tab, lambda: not session.timeline.moving)


def test_a_clicked_patch_shows_where_it_looks(tab) -> None:
    tab, visit = tab
    session = visit.session
    tab.get_by_role("tab", name="Attention").click()
    picture = tab.get_by_alt_text("Photograph of view 2")
    before = tab.get_by_alt_text("Photograph of view 1").get_attribute("src")
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] * 0.6, "y": box["height"] * 0.4})
    until(tab, lambda: [(p.view, p.patch) for p in session.pins] == [(2, 2 * 6 + 3)])
    tab.wait_for_selector("img[alt^='Attention on view']")
    assert tab.get_by_alt_text("Photograph of view 1").get_attribute("src") != before
    grid = tab.get_by_alt_text("Attention on view")
    box = grid.bounding_box()
    grid.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
    until(tab, lambda: (session.block, session.head) == (0, 1))
    tab.get_by_role("button", name="Remove all pins").click()
    until(tab, lambda: session.pins == [])


def test_a_click_in_the_scene_chooses_a_patch(tab) -> None:
    tab, visit = tab
    canvas = tab.locator("canvas").first.bounding_box()
    for share in (0.5, 0.45, 0.55, 0.4, 0.6, 0.35, 0.65):
        tab.mouse.click(canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] * share)
        tab.wait_for_timeout(200)
        if visit.session.pins:
            break
    assert len(visit.session.pins) == 1
    until(tab, lambda: len(visit.renderer.pins) == 1)


def test_a_head_is_cut_and_given_back(tab) -> None:
    tab, visit = tab
    session = visit.session
    tab.get_by_role("tab", name="Ablate").click()
    tab.get_by_role("button", name="Switch off", exact=True).click()
    tab.wait_for_selector("text=head 0 of block 1's cross-attention, view 2 (zero)")
    assert [pane.title for pane in session.panes] == ["before", "after ablation"]
    tab.wait_for_selector("th:text-is('after ablation') >> visible=true")
    tab.get_by_role("button", name="Switch off", exact=True).click()
    tab.wait_for_selector("text=is switched off already")
    tab.get_by_text("The same in Python").click()
    tab.wait_for_selector('pre:has-text(\'HeadAblation("dec2.1.cross_attn", mode="zero"\')')
    tab.get_by_role("button", name="Undo the last").click()
    tab.wait_for_selector("text=Nothing is switched off.")
    assert session.ablations == []


def test_probes_are_compared_and_pictures_saved(tab, tmp_path) -> None:
    tab, visit = tab
    session = visit.session
    tab.get_by_role("tab", name="Compare").click()
    choose(tab, "Beside", "other probes")
    until(tab, lambda: len(session.panes) == 2)
    tab.wait_for_selector("th:text-is('other probes') >> visible=true")  # the panel is done
    choose(tab, "Beside", "nothing")
    until(tab, lambda: len(session.panes) == 1)
    tab.get_by_role("tab", name="Files").click()
    for label, start in (("PNG", b"\x89PNG"), ("viser", None), ("PLY", b"ply"), ("HTML", b"<!")):
        with tab.expect_download(timeout=20_000) as download:
            tab.get_by_role("button", name=re.compile(re.escape(label))).click()
        download.value.save_as(tmp_path / label)
        content = (tmp_path / label).read_bytes()
        assert len(content) > 1000
        assert start is None or content.lower().startswith(start.lower())


def test_photographs_are_uploaded(tab) -> None:
    tab, visit = tab
    session = visit.session
    tab.get_by_role("tab", name="Files").click()
    for view in (1, 2):
        with tab.expect_file_chooser() as chooser:
            tab.get_by_role("button", name="Add a photograph").click()
        chooser.value.set_files(BOOKS / f"view{view}.jpg")
        tab.wait_for_selector(f"text=view {view}: view{view}.jpg")
    tab.get_by_role("button", name="Open them").click()
    tab.wait_for_selector("text=view1, view2")
    tab.wait_for_selector("text=the truth of this scene is not known")
    assert not session.experiment.has_truth


def test_two_browsers_do_not_disturb_each_other_nor_does_a_crash(
    browser, tab, viewer, monkeypatch
) -> None:
    tab, visit = tab
    other, complaints = opened(browser, viewer)
    theirs = viewer.visits[max(viewer.visits)]
    assert theirs is not visit
    before = (visit.session.run, visit.session.timeline.position)
    other.get_by_role("tab", name="Ablate").click()
    other.get_by_role("button", name="Switch off", exact=True).click()
    until(other, lambda: len(theirs.session.ablations) == 1)
    drag(other, 0.0)
    until(other, lambda: theirs.session.timeline.position == 0)
    other.wait_for_selector("text=The decoder's input")
    assert (visit.session.run, visit.session.timeline.position) == before

    def fails(_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(saving, "recording", fails)
    logging.getLogger("prob3r.viewer.visit").disabled = True
    other.get_by_role("tab", name="Files").click()
    other.get_by_role("button", name=re.compile("viser")).click()
    other.wait_for_selector("text=An error occurred")
    logging.getLogger("prob3r.viewer.visit").disabled = False
    drag(other, 0.5)
    other.wait_for_selector("text=Block 1's cross-attention")
    other.close()
    until(tab, lambda: len(viewer.visits) == 1)
    assert complaints == []


def test_five_views_are_looked_at_and_one_is_cut_from_another(
    browser, five: Views, caplog, monkeypatch
) -> None:
    measured: list[int] = []
    relations = Experiment.relations

    def counted(self, run, edits=()):
        measured.append(len(edits))
        return relations(self, run, edits)

    monkeypatch.setattr(Experiment, "relations", counted)
    running = Viewer(joint_probed(), Given(five), port=0)
    tab, complaints = opened(browser, running, 390, 844)
    session = running.visits[max(running.visits)].session
    tab.get_by_role("button", name="view 3", exact=True).click()
    until(tab, lambda: session.display.views == (1, 2, 4, 5))
    tab.get_by_role("tab", name="Attention").click()
    assert tab.locator("img[alt^='Photograph of view']").count() == 5
    tab.get_by_title("camera token of view 4").click()
    until(tab, lambda: [(p.view, p.token) for p in session.pins] == [(4, "camera")])
    tab.wait_for_selector("text=is on special tokens")
    assert measured == []  # nobody has looked at them
    tab.get_by_role("tab", name="Views").click()
    tab.get_by_title("block 3", exact=True).click()
    until(tab, lambda: session.block == 3)
    tab.wait_for_selector("text=Block 3: who attends to whom")
    tab.get_by_role("tab", name="Ablate").click()
    choose(tab, "What", "attention between two views")
    choose(tab, "Block", "all blocks")
    tab.get_by_role("button", name="Switch off", exact=True).click()
    until(tab, lambda: [one.words for one in session.ablations] == [WORDS])
    tab.wait_for_selector(f"text={WORDS}")
    assert measured == [0]
    tab.get_by_role("tab", name="Views").click()
    tab.wait_for_selector("td[title='view 2 to view 1: 0.0 %']")
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == []
    assert [r.getMessage() for r in caplog.records if r.name.startswith("prob3r")] == []
    tab.close()
    running.stop()
