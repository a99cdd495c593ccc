"""Photographs and attention as pictures in the panel that answer to clicks.

viser's own images can't be clicked, so a picture is HTML whose click writes what was chosen, such
as `view 2, row 5, column 3`, into the text field that follows it, as if a person had typed it.
"""

import base64
import io
import re
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from prob3r.viewer import colours
from prob3r.viewer.attention import Pin, heat
from prob3r.viewer.session import Session

PICTURE = 320
"""Width of a photograph in the panel, in its own pixels."""
CELL = 44
"""Width of one head's picture."""

_WRITE = (
    "const f=[...document.querySelectorAll('input')].find(e=>e.type==='text'&&"
    "this.compareDocumentPosition(e)&4);"
    "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype,'value').set.call(f,t);"
    "f.dispatchEvent(new Event('input',{bubbles:true}))"
)
_PATCH = re.compile(r"\s*view\s*([12])\D+?(\d{1,4})\D+?(\d{1,4})\s*", re.ASCII)
_HEAD = re.compile(r"\s*block\s*(\d{1,3})\D+?(?:(\d{1,3})|mean)\s*", re.ASCII)


class Choice(NamedTuple):
    """What a text field asks for: a patch of a view, or a block and a head."""

    kind: str
    values: tuple[int | None, ...]


def chosen(text: str) -> Choice | None:
    """Return what a text field asks for; None while it makes no sense, as when it is typed."""
    if found := _PATCH.fullmatch(text):
        return Choice("patch", tuple(int(part) for part in found.groups()))
    if found := _HEAD.fullmatch(text):
        head = found[2]
        return Choice("head", (int(found[1]), None if head is None else int(head)))
    return None


def photographs(session: Session) -> str:
    """Return both photographs as HTML, with pins, and heat where the latest pin looks."""
    figures = "".join(_photograph(session, view) for view in (1, 2))
    return f'<div style="display:flex;gap:8px;padding:0 10px 6px">{figures}</div>'


def heads(session: Session) -> str:
    """Return one small picture for every block and head: where the latest pin looks."""
    if not session.pins:
        return ""
    pin = session.pins[-1]
    rows = session.attention(pin)
    blocks, count = rows.shape[:2]
    grid = session.experiment.grids[2 - pin.view]
    order = [count - 1, *range(count - 1)]
    tall = max(1, round(CELL * grid[0] / grid[1]))
    sheet = Image.new("RGB", (CELL * count, tall * blocks), "white")
    for block in range(blocks):
        for column, head in enumerate(order):
            cell = _heat(rows[block, head], grid, (CELL - 2, tall - 2))
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
        f"t='block '+r+', head '+(c?c-1:'mean');{_WRITE}"
    )
    label = f"Where the patch looks in {blocks} blocks, the mean of the heads and each head"
    flex = "display:flex;justify-content:space-around"
    return (
        '<div style="padding:0 10px 6px;font-size:11px;display:grid;'
        'grid-template-columns:14px 1fr;gap:2px 4px">'
        f'<span></span><div style="{flex};text-align:center">{names}</div>'
        f'<div style="{flex};flex-direction:column">{numbers}</div>'
        f'<img alt="{label}" src="{_data(sheet, "PNG")}" onclick="{escape(click)}" '
        'style="width:100%;display:block;cursor:pointer"></div>'
    )


def _photograph(session: Session, view: int) -> str:
    experiment = session.experiment
    image, grid = experiment.images[view - 1], experiment.grids[view - 1]
    rows, columns = grid
    height, width = image.shape[:2]
    size = (PICTURE, round(PICTURE * height / width))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    if session.pins and session.pins[-1].view != view:
        row = session.watched(session.pins[-1])
        strength = Image.fromarray((200 * heat(row).reshape(grid)).astype(np.uint8)).resize(size)
        picture = Image.composite(_heat(row, grid, size), picture, strength)
    draw = ImageDraw.Draw(picture)
    for pin, colour in zip(session.pins, colours.PINS, strict=False):
        if pin.view == view:
            _frame(draw, pin, colour, columns, size[0] / columns)
    click = (
        "const b=this.getBoundingClientRect(),"
        f"r=Math.min({rows - 1},Math.floor((event.clientY-b.top)/b.height*{rows})),"
        f"c=Math.min({columns - 1},Math.floor((event.clientX-b.left)/b.width*{columns})),"
        f"t='view {view}, row '+r+', column '+c;{_WRITE}"
    )
    return (
        '<figure style="margin:0;flex:1;min-width:0"><img '
        f'alt="Photograph of view {view}; click a patch" src="{_data(picture, "JPEG")}" '
        f'onclick="{escape(click)}" style="width:100%;display:block;cursor:crosshair;'
        f'border-bottom:3px solid {colours.css(colours.VIEW_COLOURS[view - 1])}">'
        f'<figcaption style="font-size:11px">view {view}</figcaption></figure>'
    )


def _frame(
    draw: ImageDraw.ImageDraw, pin: Pin, colour: tuple[int, int, int], columns: int, side: float
) -> None:
    row, column = divmod(pin.patch, columns)
    box = [round(v) for v in (column * side, row * side, (column + 1) * side, (row + 1) * side)]
    draw.rectangle([box[0] - 2, box[1] - 2, box[2] + 1, box[3] + 1], outline="white", width=5)
    draw.rectangle([box[0] - 1, box[1] - 1, box[2], box[3]], outline=colour, width=3)


def _heat(
    row: Float[np.ndarray, " m"], grid: tuple[int, int], size: tuple[int, int]
) -> Image.Image:
    painted: UInt8[np.ndarray, "h w 3"] = colours.ramp(heat(row).reshape(grid))
    return Image.fromarray(painted).resize(size, Image.Resampling.NEAREST)


def _data(picture: Image.Image, kind: str) -> str:
    """Return a picture as an address that holds it."""
    content = io.BytesIO()
    picture.save(content, kind, quality=88)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{encoded}"
