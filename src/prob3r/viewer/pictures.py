"""Photographs and attention as pictures in the panel that can be clicked.

viser's own images cannot be clicked. So a picture is HTML, and a click on it writes the choice,
such as `view 2, row 5, column 3`, into the text field that follows it, as if a person had typed it.
"""

import base64
import io
import re
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from prob3r.models.protocol import trunk
from prob3r.viewer import colours
from prob3r.viewer.ablations import tokens_of
from prob3r.viewer.attention import Pin, heat
from prob3r.viewer.session import Session

PICTURE = 320
"""Width in pixels of a photograph in the panel if there are two."""
CELL = 44
"""Width in pixels of one head's picture."""

WRITE = (
    "const f=[...document.querySelectorAll('input')].find(e=>e.type==='text'&&"
    "this.compareDocumentPosition(e)&4);"
    "if(!f)return;"  # a panel that is being replaced
    "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype,'value').set.call(f,t);"
    "f.dispatchEvent(new Event('input',{bubbles:true}))"
)
"""JavaScript that writes `t` into the text field that follows, as if a person had typed it.

Without such a field it returns from the function around it.
"""

SHOWN = "shown"
_FOLLOWING = WRITE.partition(";")[0]
_TELL = (
    f"(function tell(){{if(!this.isConnected)return;{_FOLLOWING};"
    "if(!f){setTimeout(tell.bind(this),50);return}"  # the panel is not whole yet
    "let p=f;while(!p.parentElement.contains(this))p=p.parentElement;"
    "p.style.display='none';"
    f"new ResizeObserver(()=>{{const t=this.offsetParent?'{SHOWN}':'hidden';"
    f"(function(){{{WRITE}}}).call(this)}}).observe(this)}}).call(this)"
)
_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
TELLS_WHETHER_SHOWN = f'<img alt="" src="{_PIXEL}" onload="{escape(_TELL)}">'
"""An image that writes `shown` or `hidden` into the text field that follows, which it hides.

viser does not tell the server which tab of the panel is open.
"""
_PATCH = re.compile(r"\s*view\s*(\d{1,2})\D+?(\d{1,4})\D+?(\d{1,4})\s*", re.ASCII)
_TOKEN = re.compile(r"\s*view\s*(\d{1,2})\s*,\s*(?!row|column)([a-z_]+\d*)\s*", re.ASCII)
_HEAD = re.compile(r"\s*block\s*(\d{1,3})\D+?(?:(\d{1,3})|mean)\s*", re.ASCII)


class Choice(NamedTuple):
    """The choice in a text field: a patch or a special token of a view, or a block and a head.

    Attributes:
        kind: `patch`, `token` or `head`.
        values: For a patch its view, row and column; for a token its view; for a head its block and
            number, where None is the mean of the heads.
        token: Name of the special token.
    """

    kind: str
    values: tuple[int | None, ...]
    token: str = ""


def chosen(text: str) -> Choice | None:
    """Return the choice in a text field; None if it is not complete, as while it is being typed."""
    if found := _PATCH.fullmatch(text):
        return Choice("patch", tuple(int(part) for part in found.groups()))
    if found := _TOKEN.fullmatch(text):
        return Choice("token", (int(found[1]),), found[2])
    if found := _HEAD.fullmatch(text):
        head = found[2]
        return Choice("head", (int(found[1]), None if head is None else int(head)))
    return None


def photographs(session: Session) -> str:
    """Return all photographs as HTML, with pins, and a heat map of the latest pin's attention."""
    views = session.experiment.views.count
    columns = 2 if views in (2, 4) else 3 if views < 10 else 4
    attended = session.watched(session.pins[-1]) if session.pins else {}
    figures = "".join(
        _photograph(session, view, attended, PICTURE * 2 // columns) for view in range(1, views + 1)
    )
    return (
        f'<div style="display:grid;grid-template-columns:repeat({columns},1fr);gap:6px;'
        f'padding:0 10px 6px">{figures}</div>'
    )


def heads(session: Session) -> str:
    """Return a small heat map of the latest pin's attention for every block and head, as HTML."""
    if not session.pins:
        return ""
    pin, other = session.pins[-1], session.toward
    rows = session.attention(pin).patches[other]
    blocks, count = rows.shape[:2]
    grid = session.experiment.grids[other - 1]
    order = [count - 1, *range(count - 1)]
    tall = max(1, round(CELL * grid[0] / grid[1]))
    sheet = Image.new("RGB", (CELL * count, tall * blocks), "white")
    for block in range(blocks):
        for column, head in enumerate(order):
            level = heat(rows[block, head]).reshape(grid)
            cell = _heat(level, (CELL - 2, tall - 2))
            sheet.paste(cell, (CELL * column + 1, tall * block + 1))
    column = 0 if session.head is None else session.head + 1
    left, top = CELL * column, tall * session.block
    box = (left, top, left + CELL - 1, top + tall - 1)
    ImageDraw.Draw(sheet).rectangle(box, outline=colours.PINS[len(session.pins) - 1], width=2)
    names = "".join(f"<span>{'mean' if k == count - 1 else f'head {k}'}</span>" for k in order)
    numbers = "".join(f"<span>{block}</span>" for block in range(blocks))
    click = (
        "const b=this.getBoundingClientRect(),"
        f"r=Math.min({blocks - 1},Math.floor((event.clientY-b.top)/b.height*{blocks})),"
        f"c=Math.min({count - 1},Math.floor((event.clientX-b.left)/b.width*{count})),"
        f"t='block '+r+', head '+(c?c-1:'mean');{WRITE}"
    )
    label = f"Attention on view {other}, in {blocks} blocks, of the mean of the heads and each head"
    flex = "display:flex;justify-content:space-around"
    return (
        '<div style="padding:0 10px 6px;font-size:11px;display:grid;'
        'grid-template-columns:14px 1fr;gap:2px 4px">'
        f'<span></span><div style="{flex};text-align:center">{names}</div>'
        f'<div style="{flex};flex-direction:column">{numbers}</div>'
        f'<img alt="{label}" src="{_data(sheet, "PNG")}" onclick="{escape(click)}" '
        'style="width:100%;display:block;cursor:pointer"></div>'
    )


def _photograph(
    session: Session, view: int, attended: Mapping[int, Float[np.ndarray, " _m"]], width: int
) -> str:
    experiment = session.experiment
    image, grid = experiment.images[view - 1], experiment.grids[view - 1]
    rows, columns = grid
    size = (width, round(width * image.shape[0] / image.shape[1]))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    caption = f"view {view}"
    if view in attended:
        # One scale for all views, so that they can be compared.
        largest = max(float(row.max()) for row in attended.values())
        level = heat(attended[view], largest).reshape(grid)
        strength = Image.fromarray((200 * level).astype(np.uint8)).resize(size)
        picture = Image.composite(_heat(level, size), picture, strength)
        caption += f" · {100 * attended[view].sum():.0f} %"
    draw = ImageDraw.Draw(picture)
    for pin, painted in zip(session.pins, colours.PINS, strict=False):
        if pin.view == view and not pin.token:
            _frame(draw, pin, painted, columns, size[0] / columns)
    click = (
        "const b=this.getBoundingClientRect(),"
        f"r=Math.min({rows - 1},Math.floor((event.clientY-b.top)/b.height*{rows})),"
        f"c=Math.min({columns - 1},Math.floor((event.clientX-b.left)/b.width*{columns})),"
        f"t='view {view}, row '+r+', column '+c;{WRITE}"
    )
    colour = colours.css(colours.of_view(view))
    return (
        '<figure style="margin:0;min-width:0"><img '
        f'alt="Photograph of view {view}; click a patch" src="{_data(picture, "JPEG")}" '
        f'onclick="{escape(click)}" style="width:100%;display:block;cursor:crosshair;'
        f'border-bottom:3px solid {colour}">'
        f'<figcaption style="font-size:11px;white-space:nowrap">{caption}</figcaption></figure>'
    )


def tokens(session: Session) -> str:
    """Return a button for every special token, as HTML; a click shows its attention."""
    stack, views = trunk(session.probed.model), session.experiment.views.count
    names = tokens_of(stack, views)
    if not names:
        return ""
    rows = ""
    for name in names:
        buttons = "".join(
            f'<button type="button" onclick="{escape(f"t={chr(39)}view {view}, {name}{chr(39)};")}'
            f'{escape(WRITE)}" style="border:1px solid {colours.css(colours.of_view(view))};'
            "background:none;color:inherit;border-radius:4px;padding:0 6px;cursor:pointer;"
            f'font-size:11px" title="{name} token of view {view}">{view}</button>'
            for view in range(1, views + 1)
            if name in stack.layout(view).special
        )
        rows += (
            f'<span style="font-size:11px;white-space:nowrap">{escape(name)}</span>'
            f'<span style="display:flex;flex-wrap:wrap;gap:3px">{buttons}</span>'
        )
    return (
        '<div style="padding:0 10px 6px;display:grid;grid-template-columns:auto 1fr;'
        f'gap:3px 8px;align-items:center">{rows}</div>'
    )


def elsewhere(session: Session) -> str:
    """Return the shares of the latest pin's attention that no picture shows, as HTML."""
    if not session.pins:
        return ""
    pin = session.pins[-1]
    attention, head = session.attention(pin), session.head
    shares = attention.shares(session.block, head)
    own = f"{100 * shares[pin.view]:.0f} % stays in its own view, " if pin.view in shares else ""
    special = float(attention.elsewhere[session.block, -1 if head is None else head])
    if not own and special < 0.005:
        return ""
    return (
        '<div style="padding:0 10px 6px;font-size:12px;opacity:0.7">The numbers are the shares of '
        f"its attention on the views; {own}{100 * special:.0f} % is on special tokens.</div>"
    )


def _frame(
    draw: ImageDraw.ImageDraw, pin: Pin, colour: tuple[int, int, int], columns: int, side: float
) -> None:
    row, column = divmod(pin.patch, columns)
    box = [round(v) for v in (column * side, row * side, (column + 1) * side, (row + 1) * side)]
    draw.rectangle([box[0] - 2, box[1] - 2, box[2] + 1, box[3] + 1], outline="white", width=5)
    draw.rectangle([box[0] - 1, box[1] - 1, box[2], box[3]], outline=colour, width=3)


def _heat(level: Float[np.ndarray, "r c"], size: tuple[int, int]) -> Image.Image:
    painted: UInt8[np.ndarray, "h w 3"] = colours.ramp(level)
    return Image.fromarray(painted).resize(size, Image.Resampling.NEAREST)


def _data(picture: Image.Image, kind: str) -> str:
    """Return a picture as a data URL."""
    content = io.BytesIO()
    picture.save(content, kind, quality=88)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"
