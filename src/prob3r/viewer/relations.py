"""The tab of views as HTML: attention between views, and the table of views with its summary."""

from collections.abc import Sequence
from html import escape
from math import isfinite

import numpy as np
import torch

from prob3r.geometry import rotation_angle
from prob3r.measures.numbers import percent
from prob3r.measures.views import disagreeing
from prob3r.models.protocol import trunk
from prob3r.reliability.strangers import Belonging, StrangerCalibration, belongings
from prob3r.report.reliability import LIKELY
from prob3r.report.strangers import stranger_sentences
from prob3r.viewer import colours
from prob3r.viewer.pictures import WRITE
from prob3r.viewer.run import ROTATION
from prob3r.viewer.session import Session

_PAD = "padding:0 10px 8px;font-size:12px;line-height:1.4"
_CELL = "padding:2px 4px;text-align:right;white-space:nowrap"


def matrix(session: Session) -> str:
    """Return the share of every view's attention on every view, in the chosen block."""
    relations = session.relations
    if session.block not in relations.blocks:
        return f'<div style="{_PAD}">Views do not attend to each other in this block.</div>'
    shares = np.array(relations.attention)
    most = max(float(shares.max()), 1e-6)
    chosen = shares[relations.blocks.index(session.block)]
    count = len(chosen)
    head = "".join(f"<th>{_dot(view)}{view}</th>" for view in range(1, count + 1))
    rows = ""
    for view, row in enumerate(chosen, 1):
        cells = "".join(
            _cell(value, most, f"view {view} to view {other}", count)
            for other, value in enumerate(row, 1)
        )
        name = f'<th style="text-align:left;white-space:nowrap">{_dot(view)}{view}</th>'
        rows += f"<tr>{name}{cells}</tr>"
    rest = 1 - chosen.sum(1)
    special = ""
    if float(rest.max()) > 0.005:
        low, high = f"{100 * float(rest.min()):.0f}", f"{100 * float(rest.max()):.0f}"
        share = low if low == high else f"{low} to {high}"
        special = f" The rest, {share} %, is on special tokens."
    return (
        f'<div style="{_PAD}"><b>Block {session.block}: who attends to whom</b>, in percent of the '
        "attention of the row's view (the mean of its patches and heads)."
        f'{special}<table style="width:100%;border-collapse:separate;border-spacing:1px;'
        f'margin-top:4px;font-size:{11 if count < 8 else 10}px;text-align:center">'
        f"<tr><th></th>{head}</tr>{rows}</table></div>"
    )


def blocks(session: Session) -> str:
    """Return a small matrix for every block; a click chooses the block."""
    relations = session.relations
    shares = np.array(relations.attention)
    most = max(float(shares.max()), 1e-6)
    side = 40
    found = ""
    for block, values in zip(relations.blocks, shares, strict=True):
        count = len(values)
        squares = "".join(
            f'<rect x="{j}" y="{i}" width="1.02" height="1.02" '
            f'fill="{_heat(values[i, j] / most)}"/>'
            for i in range(count)
            for j in range(count)
        )
        outline = "2px solid currentColor" if block == session.block else "2px solid transparent"
        click = escape(f"t='block {block}, mean';{WRITE}")
        found += (
            f'<button type="button" onclick="{click}" title="block {block}" '
            f'aria-pressed="{str(block == session.block).lower()}" style="border:{outline};'
            'background:none;color:inherit;padding:1px;cursor:pointer;font-size:10px">'
            f'<svg viewBox="0 0 {count} {count}" width="{side}" height="{side}" '
            f'style="display:block">{squares}</svg>{block}</button>'
        )
    return f'<div style="{_PAD};display:flex;flex-wrap:wrap;gap:4px">{found}</div>'


def table(session: Session) -> str:
    """Return one row for every view: how it fits the others, and its camera."""
    relations, run, experiment = session.relations, session.run, session.experiment
    wrong = disagreeing(relations.fit)
    calibration = None if session.ablations else session.probed.strangers
    belonging = belongings(relations, calibration)
    marked = {wrong, *(b.view for b in belonging if (b.probability or 0) >= LIKELY)}
    measured = experiment.has_truth or bool(session.ablations)
    turned = rotation_angle(torch.from_numpy(run.poses[-1, :, :3, :3])).tolist()
    columns = ["fits", "sees", "conf.", "turned", *(["off"] if measured else [])]
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in columns)
    off = f" <b>off</b>: its rotation, from {session.reference}." if measured else ""
    rows = ""
    for view in range(1, experiment.views.count + 1):
        overlap = np.array(relations.overlap)[view - 1]
        seen = float(np.nanmax(overlap)) if np.isfinite(overlap).any() else float("nan")
        error = float(run.curves[view][ROTATION][-1]) if view > 1 else float("nan")
        values = [
            percent(relations.fit[view - 1]),
            percent(seen),
            f"{float(np.median(run.confidence[view - 1])):.2f}",
            "–" if view == 1 else f"{turned[view - 1]:.0f}°",
            *([f"{error:.1f}°" if isfinite(error) else "–"] if measured else []),
        ]
        cells = "".join(f'<td style="{_CELL}">{value}</td>' for value in values)
        style = ' style="background:rgba(214,39,72,0.18)"' if view in marked else ""
        rows += f'<tr{style}><th style="text-align:left">{_dot(view)}view {view}</th>{cells}</tr>'
    return (
        f'<div style="{_PAD}"><b>The views</b><br>{_verdict(session, wrong)}'
        f"{_stranger(session, belonging, calibration)}"
        '<table style="width:100%;border-collapse:collapse;margin:4px 0;font-size:11px">'
        f"<tr><th></th>{head}</tr>{rows}</table>"
        '<span style="opacity:0.7"><b>fits</b>: where its patches meet what other views see, the '
        "share that agrees; the rest stands in free space. <b>sees</b>: the share of its patches "
        "that the view with most in common sees too. <b>conf.</b>: median confidence. "
        f"<b>turned</b>: against camera 1.{off}</span></div>"
    )


def _verdict(session: Session, wrong: int | None) -> str:
    fit, count = session.relations.fit, session.experiment.views.count
    known = {view: value for view, value in enumerate(fit, 1) if isfinite(value)}
    if wrong is not None:
        return f"View {wrong} disagrees with the rest: it fits them by {percent(fit[wrong - 1])}."
    if not known:
        return "By the model's own pointmaps, no two views see the same surface."
    if count == 2:
        return f"The two views fit each other by {percent(min(known.values()))}."
    least = min(known, key=lambda view: known[view])
    return f"No view stands out; view {least} fits the others least, by {percent(known[least])}."


def _stranger(
    session: Session, found: Sequence[Belonging], calibration: StrangerCalibration | None
) -> str:
    """Return sentences on the likeliest stranger, as HTML; empty for two views."""
    name = next(iter(session.experiment.views.names), "")
    said = stranger_sentences(found, calibration, name)
    return "".join(f"<br>{escape(sentence.text)}" for sentence in said)


def needs_matrix(session: Session) -> bool:
    """Return whether the matrix is useful: two views that attend only to each other need none."""
    stack = trunk(session.probed.model)
    joint = any(s == "global_attn" for sublayers in stack.sublayers for s in sublayers)
    return joint or session.experiment.views.count > 2


def _cell(value: float, most: float, words: str, count: int) -> str:
    level = value / most
    ink = "#222" if level > 0.55 else "#fff"
    text = f"{100 * value:.0f}" if count <= 12 else ""
    return (
        f'<td title="{words}: {100 * value:.1f} %" style="background:{_heat(level)};color:{ink};'
        f'padding:{3 if count < 8 else 1}px 0">{text}</td>'
    )


def _heat(level: float) -> str:
    red, green, blue = colours.ramp(np.array([level]))[0].tolist()
    return colours.css((red, green, blue))


def _dot(view: int) -> str:
    colour = colours.css(colours.of_view(view))
    return (
        f'<span style="display:inline-block;width:8px;height:8px;border-radius:4px;'
        f'background:{colour};margin-right:3px"></span>'
    )
