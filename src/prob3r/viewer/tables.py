"""Texts and tables of the panel, as HTML."""

from collections.abc import Sequence
from html import escape

from prob3r.report.sentences import Sentence
from prob3r.viewer import colours
from prob3r.viewer.clouds import Drawing
from prob3r.viewer.session import Session
from prob3r.viewer.timeline import curves, number

LINES = ("#1f6fb5", "#d1495b")
"""Colours of the present state, and of the state that it is compared with."""
_PAD = "padding:0 10px 6px;font-size:12px;line-height:1.4"
_NARROW = (
    "<style>@media (max-width: 576px) {"
    '[style*="width: 20em"] { width: 100vw !important; max-height: 52% !important }'
    "}</style>"
)
"""A style for telephones, where viser's panel is too narrow and hides most of the scene."""


def heading(session: Session) -> str:
    """Return the names of the scene and the model, and the reference of the errors."""
    experiment = session.experiment
    views, against = experiment.views, "the truth"
    name = views.names[0] if views.names else f"{views.count} views"
    if not experiment.has_truth:
        against = "the model's own final state: the truth of this scene is not known"
    reading = "" if session.probed.bank is not None else f"{escape(experiment.reading)} "
    return (
        f'{_NARROW}<div style="{_PAD}"><b>{escape(name)}</b> · {escape(session.probed.words)}<br>'
        f'<span style="opacity:0.7">{reading}Errors are against {against}.</span></div>'
    )


def where(session: Session) -> str:
    """Return the current site in words, and the curves with this site marked."""
    timeline, panes = session.timeline, session.panes
    step = session.experiment.steps[round(timeline.position)]
    present = panes[session.present]
    of: int | str = 2
    if session.experiment.views.count == 2:
        others = [pane for pane in panes if pane is not present]
        lines = [
            (pane.title, colour, pane.run.curves[2])
            for pane, colour in zip([present, *others], LINES, strict=False)
            if len(pane.run.steps) == len(present.run.steps)
        ]
    else:
        of, few = "the views", len(present.run.curves) < 6
        lines = [
            (f"view {view}" if few else str(view), colours.css(colours.of_view(view)), curve)
            for view, curve in present.run.curves.items()
        ]
    drawn = curves(present.run.steps, timeline.position, lines, session.reference, of)
    words = escape(step.words[0].upper() + step.words[1:])
    return f'<div style="{_PAD}"><b>{words}</b></div>{drawn}'


def ablations(session: Session) -> str:
    """Return the list of active ablations, or a note that there are none."""
    if not session.ablations:
        return f'<div style="{_PAD};opacity:0.7">Nothing is switched off.</div>'
    items = "".join(f"<li>{escape(ablation.words)}</li>" for ablation in session.ablations)
    listed = f'<ol style="margin:2px 0;padding-left:20px">{items}</ol>'
    return f'<div style="{_PAD}">Switched off:{listed}</div>'


def sentences(said: Sequence[Sentence]) -> str:
    """Return sentences as paragraphs; warnings are bold."""
    lines = (
        f"<p><b>{escape(s.text)}</b></p>" if s.tone == "warning" else f"<p>{escape(s.text)}</p>"
        for s in said
    )
    return f'<div style="{_PAD}">{"".join(lines)}</div>'


def numbers(session: Session) -> str:
    """Return the errors of every pane's output side by side."""
    panes = session.panes
    if len(panes) == 1:
        return ""
    median = ", in the median over the views" if session.experiment.views.count > 2 else ""
    head = "".join(f'<th style="text-align:right">{escape(pane.title)}</th>' for pane in panes)
    cell = '<td style="text-align:right;padding-left:8px">'
    rows = "".join(
        f"<tr><td>{title}</td>{''.join(f'{cell}{number(v, unit)}</td>' for v in values)}</tr>"
        for title, unit, values in session.numbers()
    )
    return (
        f'<div style="{_PAD}"><table style="width:100%;border-collapse:collapse">'
        f"<tr><th></th>{head}</tr>{rows}</table>"
        f'<span style="opacity:0.7">Errors of the output against {session.reference}'
        f"{median}.</span></div>"
    )


def legend(session: Session, drawing: Drawing) -> str:
    """Return the legend of the colours; empty if they do not show numbers."""
    scale = drawing.scale
    if scale is not None:
        bar = f'<div style="height:8px;background:{colours.gradient(scale.stops)}"></div>'
        ends = f"<span>{scale.low:.3g}</span><span>{scale.high:.2f}</span>"
        return (
            f'<div style="{_PAD}">{bar}<div style="display:flex;justify-content:space-between">'
            f"{ends}</div>{escape(scale.words)}</div>"
        )
    return ""


def chips(session: Session, write: str) -> str:
    """Return a button for each view, in its colour, which shows or hides the view.

    Args:
        session: The session.
        write: JavaScript that writes `t` into the text field that follows.
    """
    count, display = session.experiment.views.count, session.display
    shown = [view for view in range(1, count + 1) if display.shows(view)]
    buttons = ""
    for view in range(1, count + 1):
        others = [v for v in range(1, count + 1) if (v in shown) != (v == view)]
        text = ", ".join(map(str, others)) if len(others) < count else "all"
        click = f"t='{text or 'none'}';{write}"
        colour = colours.css(colours.of_view(view))
        faint = "" if view in shown else ";opacity:0.35;text-decoration:line-through"
        buttons += (
            f'<button type="button" aria-pressed="{str(view in shown).lower()}" '
            f'onclick="{escape(click)}" style="border:1px solid {colour};border-left-width:8px;'
            f"background:none;color:inherit;border-radius:4px;padding:1px 7px;cursor:pointer;"
            f'font-size:12px{faint}">view {view}</button>'
        )
    return f'<div style="{_PAD};display:flex;flex-wrap:wrap;gap:5px">{buttons}</div>'


def code(text: str) -> str:
    """Return a program with a button that copies it."""
    copy = "navigator.clipboard.writeText(this.nextElementSibling.textContent)"
    return (
        f'<div style="{_PAD}"><button type="button" onclick="{copy};this.textContent=\'Copied\'" '
        'style="font-size:12px;padding:2px 10px;margin-bottom:4px;cursor:pointer">Copy</button>'
        '<pre style="margin:0;padding:8px;overflow-x:auto;font-size:11px;'
        f'background:rgba(127,127,127,0.12)">{escape(text)}</pre></div>'
    )
