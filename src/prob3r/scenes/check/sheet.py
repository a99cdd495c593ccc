"""A contact sheet of a data set, which makes wrong conventions visible.

Each row shows a pair: view 1 and view 2 with the same numbered points, reprojected with the true
geometry; view 2 rebuilt from the colours of view 1; and the depth of both. If axes, units or pixel
centres are wrong, equal numbers are on different objects, and the rebuilt view is broken or empty.
"""

import colorsys
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from prob3r.geometry import patch_of_pixels, pixel_matches
from prob3r.scenes.check.survey import PairCheck, Survey, colours_in_1
from prob3r.scenes.contact_sheet import RAMP
from prob3r.scenes.source import Pairs, read_each
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair

GAP = 8  # pixels between tiles
POINTS = (3, 5)  # numbered points along the height and along the width of view 2
HEADS = (
    "view 1: where view 2's points lie",
    "view 2: points; a ring if hidden in view 1",
    "view 2 from view 1's colours, grey where unseen",
    "depth 1: near is bright",
    "depth 2",
)

_INK, _PALE, _ALARM, _BAR = "#1d2129", "#6b7280", "#c62828", "#4c78c8"
_LINE = 20  # pixels from one line of text to the next
_HEAD = 6 * _LINE  # height of the summary in pixels


def draw_sheet(title: str, pairs: Pairs, found: Survey, rows: int = 6) -> Image.Image:
    """Draw the summary of a survey, and some of its pairs in the order of their overlap.

    Args:
        title: Name of the data set.
        pairs: The data set that was surveyed.
        found: The survey.
        rows: Largest number of pairs to draw.
    """
    strips = []
    for check in _spread(sorted(found.checks, key=lambda check: check.overlap), rows):
        strips += [_strip(pair, check) for pair in read_each(pairs, [check.number]).found]
    width = max([strip.width for strip in strips], default=1200)
    height = _HEAD + sum(strip.height + GAP for strip in strips) + 2 * GAP
    sheet = Image.new("RGB", (width + 2 * GAP, height), "white")
    _summary(sheet, title, found)
    top = _HEAD + GAP
    for strip in strips:
        sheet.paste(strip, (GAP, top))
        top += strip.height + GAP
    return sheet


def _spread(checks: Sequence[PairCheck], count: int) -> list[PairCheck]:
    if len(checks) <= count:
        return list(checks)
    return [checks[i] for i in torch.linspace(0, len(checks) - 1, count).round().long().tolist()]


def _summary(sheet: Image.Image, title: str, found: Survey) -> None:
    """Write the results at the upper left, and draw the histogram of overlaps on the right."""
    draw = ImageDraw.Draw(sheet)
    of = f"scenes: {found.scenes}, frames: {found.frames}, " if found.frames else ""
    faults = ", ".join(f"{len(lines)} × {kind}" for kind, lines in found.faults.items() if lines)
    nearest = min((check.depth[0] for check in found.checks), default=torch.nan)
    farthest = max((check.depth[2] for check in found.checks), default=torch.nan)
    lines = (
        f"{of}pairs: {found.pairs}, of which read in full: {found.asked}",
        f"faults: {faults or 'none'}",
        f"depth {nearest:.3g} to {farthest:.3g}; median rotation {found.median('rotation'):.0f}°, "
        f"baseline {found.median('baseline'):.2g} of the depth, "
        f"agreement of colours {found.median('agreement'):.2f}",
    )
    draw.text((GAP, GAP), title, _INK, _font(18))
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + 26 + number * _LINE), line, _PALE, _font(14))
    if found.doubt:
        draw.text((GAP, GAP + 26 + len(lines) * _LINE), found.doubt, _ALARM, _font(14))
    counts = found.histogram()
    bar, low = 22, _HEAD - 2 * GAP
    left = sheet.width - GAP - bar * len(counts)
    for number, count in enumerate(counts):
        tall = round((low - _LINE - GAP) * count / max(1, *counts))
        x = left + number * bar
        draw.rectangle((x, low - tall, x + bar - 3, low), _BAR if count else "#d0d4da")
    right = left + bar * len(counts)
    for text, x, anchor in (
        ("0", left, "la"),
        ("overlap", (left + right) // 2, "ma"),
        ("1", right, "ra"),
    ):
        draw.text((x, low + 2), text, _PALE, _font(12), anchor=anchor)


def _strip(pair: Pair, check: PairCheck) -> Image.Image:
    """Draw the row of one pair."""
    matches = pixel_matches(pair.match_truth)
    one, two = _picture(pair.view1.image), _picture(pair.view2.image)
    seen = matches.visible[:, None]
    grey = 0.4 * pair.view2.image.mean(dim=1, keepdim=True) + 0.55
    rebuilt = _picture(torch.where(seen, colours_in_1(pair, matches), grey))
    _number_points(one, two, pair, matches.pixels[0], matches.visible[0])
    depths = _depths(pair.view1, pair.view2)
    tiles = [one, two, rebuilt, *depths]
    cell = max(max(tile.size) for tile in tiles)
    tall = max(tile.height for tile in tiles)
    strip = Image.new("RGB", (len(tiles) * (cell + GAP) - GAP, tall + 2 * _LINE + 2), "white")
    draw = ImageDraw.Draw(strip)
    caption = (
        f"{check.name}   ·   overlap {check.overlap:.2f}   rotation {check.rotation:.0f}°   "
        f"agreement of colours {check.agreement:.2f}"
    )
    draw.text((0, 0), caption, _INK, _font(14))
    for number, (tile, head) in enumerate(zip(tiles, HEADS, strict=True)):
        x = number * (cell + GAP)
        draw.text((x, _LINE), head, _PALE, _font(12))
        strip.paste(tile, (x, 2 * _LINE))
    return strip


def _number_points(
    one: Image.Image,
    two: Image.Image,
    pair: Pair,
    pixels: Float[Tensor, "h w 2"],
    visible: Tensor,
) -> None:
    """Mark points on a grid in view 2, and their positions in view 1 if these are in the image."""
    height, width = pair.view2.size
    _, inside = patch_of_pixels(pixels, *pair.view1.size, 1)
    usable = inside & pair.valid[1][0]
    rows, columns = (
        ((torch.arange(count) + 0.5) * side / count).long().tolist()
        for side, count in zip((height, width), POINTS, strict=True)
    )
    places = [(x, y) for y in rows for x in columns if usable[y, x]]
    for number, (x, y) in enumerate(places):
        red, green, blue = colorsys.hsv_to_rgb(number / max(1, len(places)), 0.85, 1.0)
        colour = round(255 * red), round(255 * green), round(255 * blue)
        there = pixels[y, x].tolist()
        for picture, (u, v) in ((one, there), (two, (x, y))):
            _mark(picture, round(u), round(v), str(number + 1), colour, bool(visible[y, x]))


def _mark(
    picture: Image.Image,
    x: int,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    filled: bool,
) -> None:
    draw = ImageDraw.Draw(picture)
    if filled:
        draw.circle((x, y), 6, fill=colour, outline="black", width=1)
    else:
        draw.circle((x, y), 7, outline="black", width=4)
        draw.circle((x, y), 6, outline=colour, width=2)
    right = x < picture.width - 24
    draw.text(
        (x + 9 if right else x - 9, y),
        text,
        "white",
        _font(13),
        anchor="lm" if right else "rm",
        stroke_width=2,
        stroke_fill="black",
    )


def _depths(*views: View) -> list[Image.Image]:
    """Return the depths of the views as colours on a common scale; unknown depth is grey."""
    known = torch.cat([view.points[..., 2][view.known] for view in views])
    near, far = known.quantile(torch.tensor([0.01, 0.99])).tolist()
    ramp = torch.tensor(RAMP)
    pictures = []
    for view in views:
        depth = view.points[..., 2]
        level = ((depth - near) / max(far - near, 1e-9)).clamp(0, 1) * (len(RAMP) - 1)
        low = level.floor().clamp(max=len(RAMP) - 2).long()
        colour = torch.lerp(ramp[low], ramp[low + 1], (level - low)[..., None])
        colour = torch.where(view.known[..., None], colour, 0.6)
        pictures.append(_picture(2 * colour.movedim(-1, 1) - 1))
    return pictures


def _picture(image: Float[Tensor, "1 3 h w"]) -> Image.Image:
    pixels: UInt8[Tensor, "h w 3"]
    pixels = (127.5 * (image[0].clamp(-1, 1) + 1)).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
