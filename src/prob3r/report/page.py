"""The page: an explanation as one self-contained HTML file."""

import json
import re
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from math import isfinite, nan
from pathlib import Path

from prob3r.io.files import writing_to
from prob3r.measures.measurements import Measurements
from prob3r.measures.numbers import percent
from prob3r.measures.reconstruction import TOLERANCE
from prob3r.measures.reference import FINAL, TRUTH
from prob3r.measures.steps import stack_words
from prob3r.measures.tokens import SINK
from prob3r.report.encode import encode
from prob3r.report.explanation import Explanation
from prob3r.report.sentences import Sentence, attention_words, scene_words

SCRIPTS = (
    "data.js",
    "linear.js",
    "shaders.js",
    "viewer.js",
    "scene.js",
    "photographs.js",
    "influence.js",
    "curves.js",
    "camera_path.js",
    "reconstruction.js",
    "layers.js",
    "attention.js",
    "relations.js",
    "heads.js",
    "effects.js",
    "main.js",
)
"""In the order in which they need each other."""


def write_page(explanation: Explanation, path: Path) -> None:
    """Write an explanation as a self-contained HTML page.

    Raises:
        Prob3rError: The file cannot be written.
    """
    with writing_to(path) as temporary:
        temporary.write_text(page(explanation), encoding="utf-8", errors="replace")


def page(explanation: Explanation) -> str:
    """Return the HTML of an explanation."""
    provenance = explanation.measurements.provenance
    several = len(provenance.sizes) > 2
    sizes = " and ".join(f"{width} × {height}" for height, width in sorted({*provenance.sizes}))
    parts = {
        "title": escape(f"{provenance.pair}: what {provenance.model} does"),
        "style": asset("style.css"),
        "script": "\n".join(asset(name) for name in SCRIPTS),
        "data": inline(json.dumps(encode(explanation), separators=(",", ":"), allow_nan=False)),
        **_words(explanation),
        "pair": escape(provenance.pair),
        "views": _views(explanation) if several else "",
        "relations": asset("relations.html") if several else "",
        "camera_path": _camera_path(explanation.measurements),
        "influence": _influence(explanation),
        "fits": _FITS.format(tolerance=f"{100 * TOLERANCE:g}") if several else "",
        "model": escape(provenance.model),
        "probes": escape(_probes(explanation)),
        "reference": escape(_reference(explanation)),
        "happened": _list(explanation.happened),
        "trust": _list(explanation.trust),
        "size": sizes,
        "patch": str(provenance.patch),
        "sink": f"{SINK:g}",
        "tolerance": f"{100 * TOLERANCE:g}",
        "fingerprint": escape(provenance.fingerprint),
        "precision": escape(provenance.precision),
        "versions": escape(", ".join(f"{k} {v}" for k, v in provenance.versions.items())),
    }
    # In one pass, so that nothing in a name is ever taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], asset("template.html"))


def _words(explanation: Explanation) -> dict[str, str]:
    """Return the words of the page that depend on how many views there are, and on the model."""
    m = explanation.measurements
    stack = stack_words(m.steps[0].stack)
    several = m.views > 2
    count = _COUNTS[m.views] if m.views < len(_COUNTS) else str(m.views)
    trained = "the decoder" if several else "its decoder"
    within = trained if stack == "decoder" else f"the {stack}"
    moving = (
        f"All views but the first as the probes read them after every sublayer of {within}, moving "
        "into place. Their cameras stand where those points put them; the pale points are the "
        "final state."
        if several
        else f"View 2 as the probes read it after every sublayer of {within}, moving into place. "
        "Camera 2 stands where those points put it; the pale points are the final state."
    )
    read = "after every layer a small probe reads the 3D point of each pixel from the model. This "
    read += "page shows how these points move"
    if len(m.steps) < 2:
        read = "no probes read the layers between. This page shows the output and the attention"
    return {
        "read": read,
        "count": count,
        "Count": count.capitalize(),
        "scene": scene_words(m),
        "Scene": scene_words(m).capitalize(),
        "all": "all views" if several else "both views",
        "any": "any" if several else "either",
        "moving": moving,
        "attention": attention_words(m),
        "other": "the view that you choose" if several else "the other one",
        "whose": "" if several else "view 2's ",
        "moved": "a view" if several else "view 2",
        "names": f"View 1 to {m.views}" if several else "View 1, view 2",
        "rest": "view 2 and so on are the others" if several else "view 2 is the other one",
        "trunk": stack,
        "camera": "Cameras" if several else "Camera 2",
    }


def _influence(explanation: Explanation) -> str:
    """Return the section on what decides the cameras; empty if there is no such measurement."""
    if not explanation.influence:
        return ""
    several = explanation.measurements.views > 2
    parts = {
        "where": "a camera stands" if several else "camera 2 stands",
        "moves": "the chosen camera" if several else "camera 2",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], asset("influence.html"))


def _probes(explanation: Explanation) -> str:
    """Return the kind of the probes, with the target and the data of their fit."""
    provenance = explanation.measurements.provenance
    kind = {"mlp": "MLP"}.get(provenance.probes, provenance.probes)
    return f"{kind}, {provenance.fitted}" if provenance.fitted else kind


_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_COLUMNS: Mapping[str, Callable[[Measurements, int], str]] = {
    "Size": lambda m, view: "{1} × {0}".format(*m.provenance.sizes[view - 1]),
    "Confidence": lambda m, view: _number(m.finals[max(view, 2)].confidence[view > 1], 1),
    "Seen by view 1": lambda m, view: _percent(m, view, "overlap"),
    "Fits the others": lambda m, view: percent(m.relations.fit[view - 1]),
    "Turned by": lambda m, view: _of(m, view, "rotation", "°"),
    "One camera explains": lambda m, view: _percent(m, view, "inliers"),
    "Rotation error": lambda m, view: _number(_last(m, view, "rotation_error"), 1, "°"),
    "Translation error": lambda m, view: _number(_last(m, view, "translation_error"), 1, "°"),
    "Shape error": lambda m, view: _number(_last(m, view, "shape_error"), 3),
}


_FITS = (
    "<div><dt>Sees too, fits the others</dt><dd>A patch's point is put into the other view's "
    "camera. That view sees it too if its own pointmap has the same depth there (within "
    "{tolerance} %). If the point is nearer, the other view should have seen it: this is a "
    "conflict. Fits the others: the share of points that are seen too among points that are seen "
    "too or in conflict, over all other views and in both directions."
    "</dd></div>\n    "
)


def _camera_path(m: Measurements) -> str:
    """Return the section on the camera head; empty for a model without one."""
    if m.camera_path is None:
        return ""
    end = "the true cameras" if m.camera_path.against == TRUTH else "its answer at the last block"
    return asset("camera_path.html").replace("[end]", end)


def _views(explanation: Explanation) -> str:
    """Return the table of views: the output of each view, and its errors."""
    m = explanation.measurements
    head = "".join(f'<th scope="col">{title}</th>' for title in ("View", *_COLUMNS))
    rows = "".join(
        f'<tr><th scope="row">view {view}</th>'
        + "".join(f"<td>{show(m, view)}</td>" for show in _COLUMNS.values())
        + "</tr>"
        for view in m.curves
    )
    where = "the last site" if m.provenance.reference == FINAL else "the output"
    return (
        '<section aria-labelledby="h-views"><h2 id="h-views">The views</h2><p class="hint">'
        "The output of every view, and its errors "
        f"at {where} against the {m.provenance.reference}, each as in a pair with view 1.</p>"
        f'<div class="card views"><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div></section>\n"
    )


def _last(m: Measurements, view: int, metric: str) -> float:
    """Return the last error of a view; against the final state this is the error at the last site.

    The output itself has no error against the final state, because it is the final state.
    """
    if view == 1:
        return nan
    if m.against[view][metric] == FINAL:
        return m.curves[view][metric][-2] if len(m.steps) > 1 else nan
    return m.curves[view][metric][-1]


def _of(m: Measurements, view: int, name: str, unit: str) -> str:
    found = view > 1 and m.finals[view].pose_found
    return _number(getattr(m.finals[view], name) if found else nan, 1, unit)


def _percent(m: Measurements, view: int, name: str) -> str:
    return percent(nan if view == 1 else getattr(m.finals[view], name))


def _number(value: float, digits: int, unit: str = "") -> str:
    return f"{value:.{digits}f}{unit}" if isfinite(value) else "–"


def asset(name: str) -> str:
    """Return the text of a file in `report/assets`."""
    return (resources.files("prob3r.report") / "assets" / name).read_text(encoding="utf-8")


def inline(text: str) -> str:
    """Return JSON with `<` escaped, so that it cannot close the script element around it."""
    return text.replace("<", "\\u003c")


def _list(sentences: list[Sentence]) -> str:
    items = (f'<li class="{s.tone}">{escape(s.text)}</li>' for s in sentences)
    return f"<ul class='sentences'>{''.join(items)}</ul>"


def _reference(explanation: Explanation) -> str:
    """Say in one sentence what the curves are measured against."""
    m = explanation.measurements
    kinds = {kind for by_metric in m.against.values() for kind in by_metric.values()}
    if kinds == {TRUTH}:
        return f"Errors are against the truth, which is known for this {scene_words(m)}."
    if kinds == {FINAL}:
        return (
            f"No truth is known for this {scene_words(m)}: errors are against the model's own "
            "final state, its output."
        )
    return (
        f"Part of the truth is known for this {scene_words(m)}; every curve says whether it is "
        "measured against that or against the model's own final state."
    )
