"""The findings page: what the studies in a folder came to, written from their saved results."""

import json
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.io.files import writing_to
from prob3r.studies.study import NOT_RUN
from prob3r.studies.verdict import Finding

_MARKS = {"supported": "**supported**", "not supported": "**not supported**", "mixed": "mixed"}


def write_findings(folder: Path, order: list[str], page: Path | None = None) -> Path:
    """Write the page of a folder of studies and return its path.

    Args:
        folder: Where `conduct` put its results.
        order: Names of the studies as they are to be reported; those without results are left out.
        page: What to write; `findings.md` in the folder by default.

    Raises:
        Prob3rError: There are no results, or they are of several models, or damaged.
    """
    results = [_read(folder / name / "findings.json") for name in order]
    found = [(name, result) for name, result in zip(order, results, strict=True) if result]
    if not found:
        raise Prob3rError(f"{folder} holds no findings; run `prob3r study` first.")
    models = {(result["model"], result["weights"]) for _, result in found}
    if len(models) > 1:
        names = " and ".join(sorted(f"{name} ({weights})" for name, weights in models))
        raise Prob3rError(f"{folder} holds findings of {names}; give each a folder of its own.")
    ((model, weights),) = models
    lines = [
        f"# Findings for {model}",
        "",
        f"Weights `{weights}`. Written by `prob3r study` from saved results. Effects are medians "
        "over pairs where their unit says nothing else, with 95 % bootstrap intervals over pairs; "
        "the rules for the verdicts stand in the docstring of each study, and were written first.",
        "",
        "| claim | verdict | effect | pairs |",
        "|---|---|---|---|",
    ]
    for name, result in found:
        for finding in result["findings"]:
            lines.append(
                f"| {finding['claim']}, [{name}](#{_anchor(result['title'])}): "
                f"{finding['statement']} | {_MARKS[finding['verdict']]} | {_effect(finding)}, "
                f"{finding['unit']} | {finding['pairs']} |"
            )
        for twin in result.get("missing", ()):
            lines.append(f"| {name}: the control `{twin}`, a trained twin | missing | | |")
    for name in order:
        if (file := folder / name / NOT_RUN).exists():
            left = _json(file)
            lines.append(f"| {name}: {left['title']} | not run | {left['why']} | |")
    page = page or folder / "findings.md"
    for name, result in found:
        lines += ["", *_section(folder / name, name, result, page)]
    with writing_to(page) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    result = _json(path)
    texts = ("title", "model", "weights", "data")
    if not (
        isinstance(result, dict)
        and all(isinstance(result.get(key), str) for key in texts)
        and "pairs" in result
        and isinstance(result.get("findings"), list)
        and all(map(_is_finding, result["findings"]))
    ):
        raise _damaged(path)
    return result


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> Prob3rError:
    return Prob3rError(f"{path} is damaged; delete it and run the study again.")


def _is_finding(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() >= {field.name for field in fields(Finding)}
        and value["verdict"] in list(_MARKS)
        and all(isinstance(value[key], float | int | None) for key in ("effect", "low", "high"))
    )


def _section(folder: Path, name: str, result: dict[str, Any], page: Path) -> list[str]:
    """Return what one study came to, with its figures."""
    sample = f" ({result['sample']})" if "sample" in result else ""
    on = f"On {result['pairs']} pairs of `{result['data']}`{sample}."
    on += "".join(f" Probes `{k}`: {words}." for k, words in result.get("probes", {}).items())
    lines = [f"## {result['title']}", "", on, ""]
    for finding in result["findings"]:
        lines += [
            f"- *{finding['statement']}*: {_MARKS[finding['verdict']]}. {_effect(finding)} "
            f"({finding['unit']}; {finding['pairs']} pairs). Controls: {finding['control']}.",
        ]
    for figure in sorted(folder.glob("*.png")):
        link = Path(os.path.relpath(figure, page.parent)).as_posix()
        lines += ["", f"![{name}: {figure.stem}]({link})"]
    return lines


def _effect(finding: dict[str, Any]) -> str:
    value, low, high = (finding[key] for key in ("effect", "low", "high"))
    if any(number is None or not math.isfinite(number) for number in (value, low, high)):
        return "not measurable"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")
