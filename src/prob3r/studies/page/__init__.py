"""The page of findings: the results of the studies of one or more models, from saved files."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.io.files import writing_to
from prob3r.studies.page.overview import (
    MARKS,
    NOT_ASKED,
    claims_table,
    columns,
    effect,
    fingerprints,
)
from prob3r.studies.page.saved import Saved, read_saved


def write_findings(
    folders: Path | Sequence[Path], order: Sequence[str], page: Path | None = None
) -> Path:
    """Write the page of findings of one or more models, and return its path.

    Args:
        folders: The folders into which `conduct` wrote results, one for each model, or one for each
            data set that a model was tested on.
        order: Names of the studies in the order of the page; those without results are left out.
        page: The file to write; by default `findings.md` in the first folder.

    Raises:
        Prob3rError: A folder holds no results, or those of several models, or damaged ones; or two
            folders hold results of one model on the same data.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    saved = [read_saved(folder, order) for folder in folders]
    whose = [f"{each.model} on {each.data}" for each in saved]
    for number, name in enumerate(whose):
        if name in whose[:number]:
            first = folders[whose.index(name)]
            raise Prob3rError(
                f"{first} and {folders[number]} both hold findings of {name}; give one of them."
            )
    saved = _named(saved)
    if len({each.data for each in saved}) > 1:
        saved = [replace(each, on=f" on {each.data}") for each in saved]
    page = page or folders[0] / "findings.md"
    titles = {
        (each.column, study): result["title"] + (f", in {each.column}" if len(saved) > 1 else "")
        for each in saved
        for study, result in each.results.items()
    }
    links = {key: f"#{_anchor(title)}" for key, title in titles.items()}
    weights = ", ".join(
        f"`{model}` (`{given}`)" if given else f"`{model}`"
        for model, given in fingerprints(saved).items()
    )
    lines = [
        f"# Findings for {' and '.join(dict.fromkeys(each.model for each in saved))}",
        "",
        f"Models with the fingerprints of their weights: {weights}. Written by `prob3r study` and "
        "`prob3r findings` from saved results. A cell gives the verdict, the effect and its 95 % "
        f"bootstrap interval over scenes; {NOT_ASKED} is for a question that is not about this "
        "model. Effects are medians where their unit says nothing else. The rules for the verdicts "
        "stand in the docstring of each study, and were written first. A bold number begins a "
        "claim, with what its paper reported and what we read of that paper; the rows under it are "
        "the questions that studies put to a model.",
        "",
        *claims_table(saved, order, links),
        *_not_run(saved, order),
    ]
    for each in saved:
        for study, result in each.results.items():
            title = titles[each.column, study]
            lines += ["", *_section(each.folder / study, study, result, page, title)]
    with writing_to(page) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def _named(saved: Sequence[Saved]) -> list[Saved]:
    """Return the results; a model that is a file is named by its stem if that stem is unique."""
    stems = [
        Path(each.model).stem if each.model.endswith(".safetensors") else each.model
        for each in saved
    ]
    times = Counter(dict(zip((each.model for each in saved), stems, strict=True)).values())
    references = {name: weights for each in saved for name, weights in each.references.items()}
    return [
        replace(each, model=stem)
        if times[stem] == 1 and references.get(stem, each.weights) == each.weights
        else each
        for stem, each in zip(stems, saved, strict=True)
    ]


def _not_run(saved: Sequence[Saved], order: Sequence[str]) -> list[str]:
    """Return what was not run, and why."""
    lines = []
    for each in saved:
        model = f"`{each.column}`"
        lines += [f"- `{study}` was not run on {model}: {why}" for study, why in each.left.items()]
        for study, result in each.results.items():
            for control in result.get("missing", ()):
                lines.append(f"- `{study}` of {model} lacks the control `{control}`.")
        done = {*each.results, *each.left}
        if absent := [study for study in order if study not in done]:
            studies = ", ".join(f"`{study}`" for study in absent)
            lines.append(f"- No result of {model} is stored for {studies}.")
    for model in columns(saved):
        if model not in {each.column for each in saved}:
            lines.append(
                f"- No study was run on `{model}` itself: it is a control in the studies of "
                "another model, and its cells come from those."
            )
    return ["", "What was not run, and why:", "", *lines] if lines else []


def _section(folder: Path, name: str, result: dict[str, Any], page: Path, title: str) -> list[str]:
    """Return the lines of one study's section, with its figures."""
    sample = f" ({result['sample']})" if "sample" in result else ""
    views = result.get("views", 2)
    pairs, of = ("pairs", "") if views == 2 else ("scenes", f" of {views} views")
    on = f"On {result['pairs']} {pairs}{of} of `{result['data']}`{sample}."
    on += "".join(f" Probes `{k}`: {words}." for k, words in result.get("probes", {}).items())
    if used := result.get("dictionaries"):
        names = ", ".join(f"`{name}` ({digits})" for name, digits in used.items())
        on += f" Dictionaries: {names}."
    lines = [f"## {title}", "", on, ""]
    for finding in result["findings"]:
        lines += [
            f"- *{finding['statement']}*: {MARKS[finding['verdict']]}. {effect(finding)} "
            f"({finding['unit']}; {finding['pairs']} {pairs}). Controls: {finding['control']}.",
        ]
    note = folder / "note.md"
    if note.exists():
        lines += ["", note.read_text(encoding="utf-8").strip()]
    for figure in sorted(folder.glob("*.png")):
        link = Path(os.path.relpath(figure, page.parent)).as_posix()
        lines += ["", f"![{name}: {figure.stem}]({link})"]
    return lines


def _anchor(title: str) -> str:
    """Return the anchor of a heading in Markdown."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
