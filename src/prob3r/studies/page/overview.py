"""The table of all claims: claims in rows, models in columns, with what each paper reported."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from prob3r.studies.page.claims import CLAIMS, Claim, Question
from prob3r.studies.page.saved import Saved

NOT_RUN, NOT_ASKED = "not run", "–"
MARKS = {"supported": "**supported**", "not supported": "**not supported**", "mixed": "mixed"}


@dataclass(frozen=True)
class Answer:
    """A finding that answers a question.

    Attributes:
        model: Name of the model that the finding is about.
        on: What follows a model's name in the columns, as in `Saved`.
        tested: The column of the model whose study has the finding.
        study: The study's name.
        finding: The finding, as it was saved.
        question: The question that it answers; None if it is not a known question.
    """

    model: str
    on: str
    tested: str
    study: str
    finding: Mapping[str, Any]
    question: Question | None

    @property
    def column(self) -> str:
        """The column of the model that the finding is about."""
        return self.model + self.on

    @property
    def claim(self) -> Claim:
        """The claim that the finding is about."""
        return claim_of(self.finding)

    @property
    def key(self) -> str:
        """The key that is equal for findings of several models on the same question."""
        return self.question.statement if self.question else in_common(self.finding)


def columns(saved: Sequence[Saved]) -> list[str]:
    """Return the columns: the models under test, then the references that a finding is about."""
    about = [answer.column for each in saved for answer in _answers(each)]
    return list(dict.fromkeys([*(each.column for each in saved), *about]))


def fingerprints(saved: Sequence[Saved]) -> dict[str, str]:
    """Return the fingerprint of every model of the table by its name, empty if it is not known."""
    found = {each.model: each.weights for each in saved}
    for each in saved:
        for answer in _answers(each):
            found.setdefault(answer.model, each.references.get(answer.model, ""))
    return found


def claims_table(
    saved: Sequence[Saved], order: Sequence[str], links: Mapping[tuple[str, str], str]
) -> list[str]:
    """Return the lines of the table.

    A row gives the unit of the effect if it is the same for all models; otherwise each cell does.

    Args:
        saved: The results of each model under test.
        order: Names of all studies.
        links: Anchors of the sections of the page, by the model's column and the study's name.
    """
    models = columns(saved)
    answers = [answer for each in saved for answer in _answers(each)]
    others = {claim: None for a in answers if (claim := a.claim) not in CLAIMS}
    lines = [
        f"| claim | reported, and on which model | {' | '.join(f'`{m}`' for m in models)} |",
        "|---" * (2 + len(models)) + "|",
    ]
    for claim in (*CLAIMS, *others):
        asked = list(claim.questions)
        rows: dict[str, list[Answer]] = {}
        for answer in sorted(
            (a for a in answers if a.claim == claim),
            key=lambda a: asked.index(a.question) if a.question else len(asked),
        ):
            rows.setdefault(f"{answer.study} {answer.key}", []).append(answer)
        studies = [study for study in claim.studies if study in order]
        lines.append(_claim_row(claim, models, None if rows else studies))
        lines += [_question_row(row, saved, models, links) for row in rows.values()]
    return lines


def in_common(finding: Mapping[str, Any]) -> str:
    """Return the part of a statement that is equal for several models.

    This is the statement up to its first colon, with `n` for every number. After the colon a
    statement gives the result.
    """
    return re.sub(r"\d+(\.\d+)?", "n", finding["statement"].partition(": ")[0])


def claim_of(finding: Mapping[str, Any]) -> Claim:
    """Return the claim that a finding is about; one without words if its number is not known."""
    number = finding["claim"]
    return next((claim for claim in CLAIMS if claim.number == number), Claim(number, "", ()))


def effect(finding: Mapping[str, Any]) -> str:
    """Return the effect with its interval."""
    if not is_measured(finding):
        return "not measurable"
    return f"{finding['effect']:.3g} [{finding['low']:.3g}, {finding['high']:.3g}]"


def is_measured(finding: Mapping[str, Any]) -> bool:
    """Return whether a finding has an effect and its interval."""
    numbers = (finding[key] for key in ("effect", "low", "high"))
    return all(number is not None and math.isfinite(number) for number in numbers)


def _claim_row(claim: Claim, models: Sequence[str], ask: Sequence[str] | None) -> str:
    """Return the row with a claim and what its paper reported.

    Args:
        claim: The claim.
        models: The columns.
        ask: The studies to run if no model answers it; None if one does.
    """
    source = f"[{claim.paper}](https://arxiv.org/abs/{claim.arxiv}); {claim.read}"
    reported = f"{claim.reported} ({source})" if claim.paper else claim.reported
    title = f"**{claim.number}** {claim.statement}".rstrip()
    if ask is not None:
        commands = ", ".join(f"`prob3r study {study}`" for study in ask)
        title += f"; {commands or 'no study asks it yet'}"
    cells = ["" if ask is None else NOT_RUN] * len(models)
    return f"| {title} | {reported} | {' | '.join(cells)} |"


def _question_row(
    answers: Sequence[Answer],
    saved: Sequence[Saved],
    models: Sequence[str],
    links: Mapping[tuple[str, str], str],
) -> str:
    """Return the row of one question."""
    units = {a.finding["unit"] for a in answers if is_measured(a.finding)}
    units = units or {a.finding["unit"] for a in answers}
    cells = [_cell(model, answers, saved, links, len(units) > 1) for model in models]
    unit = f" ({''.join(units)})" if len(units) == 1 and any(units) else ""
    statements = {answer.finding["statement"] for answer in answers}
    label = statements.pop() if len(statements) == 1 else answers[0].key
    if answers[0].question:
        label = answers[0].question.statement
    shown = f"{label}{unit}".replace("|", r"\|")
    return f"| {shown} | | {' | '.join(cells)} |"


def _cell(
    model: str,
    answers: Sequence[Answer],
    saved: Sequence[Saved],
    links: Mapping[tuple[str, str], str],
    with_unit: bool,
) -> str:
    """Return the cell of one question and one model."""
    texts: dict[str, None] = {}
    for answer in (answer for answer in answers if answer.column == model):
        link = links[answer.tested, answer.study]
        text = f"[{MARKS[answer.finding['verdict']]}]({link}) {effect(answer.finding)}"
        told = with_unit and is_measured(answer.finding)
        texts[f"{text} {answer.finding['unit']}" if told else text] = None
    if texts:
        return "<br>".join(texts)
    studies = {answer.study for answer in answers}
    run = {study for each in saved if each.column == model for study in each.results}
    return NOT_ASKED if studies & run else NOT_RUN


def _answers(saved: Saved) -> list[Answer]:
    """Return every finding of a model's studies."""
    found = []
    for study, result in saved.results.items():
        for finding in result["findings"]:
            question = _question(study, finding)
            about = question.of if question else ()
            model = next((name for name in about if name in saved.references), saved.model)
            found.append(Answer(model, saved.on, saved.column, study, finding, question))
    return found


def _question(study: str, finding: Mapping[str, Any]) -> Question | None:
    """Return the question that a finding answers, if it is a known one."""
    for question in claim_of(finding).questions:
        if question.study == study and fnmatchcase(finding["statement"], question.finding):
            return question
    return None
