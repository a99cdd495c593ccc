from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prob3r.viewer.pictures import Choice, chosen, heads, photographs
from prob3r.viewer.session import Session


class Images(HTMLParser):
    """The attributes of all images."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("view 2, row 5, column 13", Choice("patch", (2, 5, 13))),
        (" view 1: 0 0", Choice("patch", (1, 0, 0))),
        ("block 3, head 2", Choice("head", (3, 2))),
        ("block 3, mean", Choice("head", (3, None))),
        ("block 3, head mean", Choice("head", (3, None))),
        ("view 12, row 5, column 13", Choice("patch", (12, 5, 13))),
        ("view 2, camera", Choice("token", (2,), "camera")),
        ("view 2, row 5", None),
        ("view 2, row", None),
        ("", None),
    ],
)
def test_a_text_field_asks_for_a_patch_or_a_head(text: str, choice: Choice | None) -> None:
    assert chosen(text) == choice


@given(st.text())
def test_any_text_is_understood_or_not(text: str) -> None:
    assert chosen(text) is None or chosen(text).kind in ("patch", "head", "token")


def test_photographs_answer_to_clicks_and_change_with_pins(session: Session) -> None:
    before = Images(photographs(session)).found
    assert [image["alt"][:20] for image in before] == [
        "Photograph of view 1",
        "Photograph of view 2",
    ]
    assert "t='view 2, row '+r" in before[1]["onclick"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in before)
    session.pin(2, 14)
    after = Images(photographs(session)).found
    assert all(a["src"] != b["src"] for a, b in zip(after, before, strict=True))
    session.watch(0, 1)
    again = Images(photographs(session)).found
    assert again[0]["src"] != after[0]["src"]
    assert again[1]["src"] == after[1]["src"]


def test_heads_show_where_the_latest_pin_looks(session: Session) -> None:
    assert heads(session) == ""
    session.pin(1, 3)
    (sheet,) = Images(heads(session)).found
    assert "3 blocks" in sheet["alt"]
    assert "*3)" in sheet["onclick"]
