"""The page: an explanation as one HTML file that needs nothing else."""

import json
import re
from html import escape
from importlib import resources
from pathlib import Path

from prob3r.io.files import written
from prob3r.report.attention import SINK_FACTOR
from prob3r.report.encode import encode
from prob3r.report.explanation import Explanation
from prob3r.report.final import TOLERANCE
from prob3r.report.reference import FINAL, TRUTH
from prob3r.report.sentences import Sentence

SCRIPTS = (
    "data.js",
    "linear.js",
    "shaders.js",
    "viewer.js",
    "scene.js",
    "photographs.js",
    "curves.js",
    "reconstruction.js",
    "layers.js",
    "attention.js",
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
    with written(path) as temporary:
        temporary.write_text(page(explanation), encoding="utf-8", errors="replace")


def page(explanation: Explanation) -> str:
    """Return the HTML of an explanation."""
    setting = explanation.measurements.setting
    sizes = " and ".join(f"{width} × {height}" for height, width in sorted({*setting.sizes}))
    parts = {
        "title": escape(f"{setting.pair}: what {setting.model} does"),
        "style": _asset("style.css"),
        "script": "\n".join(_asset(name) for name in SCRIPTS),
        "data": _inline(json.dumps(encode(explanation), separators=(",", ":"), allow_nan=False)),
        "pair": escape(setting.pair),
        "model": escape(setting.model),
        "probes": escape({"mlp": "MLP"}.get(setting.probes, setting.probes)),
        "reference": escape(_reference(explanation)),
        "happened": _list(explanation.happened),
        "trust": _list(explanation.trust),
        "size": sizes,
        "patch": str(setting.patch),
        "sink": f"{SINK_FACTOR:g}",
        "tolerance": f"{100 * TOLERANCE:g}",
        "fingerprint": escape(setting.fingerprint),
        "versions": escape(", ".join(f"{k} {v}" for k, v in setting.versions.items())),
    }
    # In one pass, so that nothing in a name is ever taken for a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("template.html"))


def _asset(name: str) -> str:
    return (resources.files("prob3r.report") / "assets" / name).read_text(encoding="utf-8")


def _inline(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")


def _list(sentences: list[Sentence]) -> str:
    items = (f'<li class="{s.tone}">{escape(s.text)}</li>' for s in sentences)
    return f"<ul class='sentences'>{''.join(items)}</ul>"


def _reference(explanation: Explanation) -> str:
    """Say in one sentence what the curves are measured against."""
    m = explanation.measurements
    kinds = {kind for by_metric in m.against.values() for kind in by_metric.values()}
    if kinds == {TRUTH}:
        return "Errors are against the truth, which is known for this pair."
    if kinds == {FINAL}:
        return (
            "No truth is known for this pair: errors are against the model's own final state, its "
            "output."
        )
    return (
        "Part of the truth is known for this pair; every curve says whether it is measured against "
        "that or against the model's own final state."
    )
