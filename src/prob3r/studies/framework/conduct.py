"""Run a study: measure every batch, find the verdicts, and write the files of its folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, to_json, writing_to
from prob3r.measures.strata import strata
from prob3r.models import fingerprint
from prob3r.runs.encoded import reusing_views
from prob3r.runs.precision import running_precision
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Scenes, batches, describe, share_views
from prob3r.studies.framework.parts import read_part, write_part
from prob3r.studies.framework.results import frames_of, version
from prob3r.studies.framework.study import Seen, Study
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from prob3r.training.processes import Processes

NOT_RUN = "not-run.json"
"""The file that says what a model lacks for a study that was not run."""


@dataclass(frozen=True)
class Result:
    """The result of a study, for one model and data set.

    Attributes:
        study: The study's name.
        model: The model's name.
        data: The name of the pairs or scenes.
        findings: The findings.
        table: All measurements, one in each row.
    """

    study: str
    model: str
    data: str
    findings: list[Finding]
    table: pd.DataFrame


def conduct(
    study: Study[Seen],
    tested: ModelUnderTest,
    pairs: Scenes[Seen],
    count: int,
    folder: Path,
    data: str,
    report: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes | None = None,
) -> Result:
    """Run a study: measure, find the verdicts and draw; or continue a study that was interrupted.

    Several processes share the batches, and the first process writes the results.

    Args:
        study: The study.
        tested: The model under test.
        pairs: The pairs or scenes, with the full truth.
        count: Number of pairs: a sample, see `prob3r.scenes.sampling.sample`.
        folder: The folder for `STUDY/table.parquet` and `.csv`, `findings.json` and the figures.
        data: The name of the pairs.
        report: Called with the number of pairs done and the number of all pairs.
        processes: The processes that share the work; by default only this one.

    Raises:
        LackingError: The model lacks what the study needs.
        Prob3rError: The folder holds a study of something else, or cannot be written.
    """
    study.check(tested)
    study.check_probes(tested)
    processes = processes or Processes()
    home = folder / study.name
    parts = home / "parts"
    make_folder(parts)
    drawn = sample(pairs, min(count, study.most or count))
    about: dict[str, object] = {
        "study": study.name,
        "model": tested.name,
        "weights": fingerprint(tested.model),
        "data": data,
        "pairs": len(drawn),
        "sample": describe(drawn),
        "batch": study.batch,
        "precision": running_precision(tested.model),
        "relatives": {name: fingerprint(model) for name, model in tested.references.items()},
    }
    if study.views != 2:
        about["views"] = study.views
    if tested.origins:
        about["probes"] = tested.origins
    about |= study.rests_on(tested)
    # Older folders do not name their sample: they hold the first pairs, which for rooms are the
    # same. Folders that do not name their precision ran in float32.
    unnamed = {} if share_views(drawn) else {"sample": about["sample"]}
    _claim(home / "study.json", about, unnamed | {"precision": "float32"})
    total = -(-len(drawn) // study.batch)
    paths = [parts / f"{number:05d}.parquet" for number in range(total)]
    todo = {n for n in range(processes.rank, total, processes.count) if not paths[n].exists()}
    if todo:
        study.prepare(tested, pairs)
    names, done = list[str](), 0
    backbones = [tested.model] if tested.untrained is None else [tested.model, tested.untrained]
    with reusing_views(drawn, *backbones):
        for number, pair in enumerate(batches(drawn, len(drawn), study.batch)):
            if number in todo:
                write_part(_measured(study, tested, pair, done), paths[number])
            names += pair.names
            done += len(pair)
            report(done, len(drawn))
    processes.wait()
    table = pd.concat([read_part(path) for path in paths], ignore_index=True)
    result = Result(study.name, tested.name, data, study.findings(table), table)
    if processes.first:
        study.illustrate(tested, pairs)
        (home / NOT_RUN).unlink(missing_ok=True)
        if missing := study.missing_controls(tested):
            about["missing"] = missing
        rests_on = {
            "protocol": {"name": f"study {study.name}", "data": data},
            "frames": frames_of(names, describe(drawn)),
            "prob3r": version(),
        }
        _write(result, study, home, about | rests_on)
    return result


def leave_out(study: Study[Any], why: str, folder: Path) -> None:
    """Record that a study was not run, and the reason, for the page of findings.

    Raises:
        Prob3rError: The folder cannot be written.
    """
    home = folder / study.name
    make_folder(home)
    with writing_to(home / NOT_RUN) as path:
        said = {"title": study.title, "why": why}
        path.write_text(json.dumps(said, indent=1), encoding="utf-8")


def _claim(path: Path, about: dict[str, object], unnamed: Mapping[str, object]) -> None:
    """Write the settings of a folder, or raise Prob3rError if it has other settings.

    Args:
        path: The file with the settings.
        about: The settings of this run.
        unnamed: Values for settings that an older file does not have.
    """
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise Prob3rError(f"{path} is damaged; delete it or give a new folder.") from error
        if isinstance(found, dict):
            found = {**unnamed, **found}
        if found != about:
            known = found.keys() if isinstance(found, dict) else ()
            differs = next((k for k in about if k not in known or found[k] != about[k]), "study")
            raise Prob3rError(
                f"{path.parent} holds a study that differs in its {differs}; give a new folder."
            )
        return
    with writing_to(path) as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _measured(study: Study[Seen], tested: ModelUnderTest, pair: Seen, first: int) -> pd.DataFrame:
    """Return the rows of a batch, with pairs counted over all batches, and with their strata."""
    pair = pair.to(next(tested.model.parameters()).device)
    with torch.no_grad():
        table = study.measure(tested, pair)
        easy, hard = (mask.cpu().numpy() for mask in strata(pair))
    rows = table.pair.to_numpy()
    return table.assign(pair=rows + first, easy=easy[rows], hard=hard[rows])


def _write(result: Result, study: Study[Any], home: Path, about: dict[str, object]) -> None:
    with writing_to(home / "table.parquet") as path:
        result.table.to_parquet(path)
    with writing_to(home / "table.csv") as path:
        result.table.to_csv(path, index=False, float_format="%.6g")
    answers = about | {"title": study.title, "findings": [asdict(f) for f in result.findings]}
    with writing_to(home / "findings.json") as path:
        path.write_text(json.dumps(to_json(answers), indent=1, allow_nan=False), encoding="utf-8")
    for name, figure in study.figures(result.table).items():
        for suffix in ("png", "pdf"):
            with writing_to(home / f"{name}.{suffix}") as path:
                figure.savefig(path, dpi=200)
