"""`prob3r study`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Overlap,
    PrecisionName,
    Rotation,
    app,
    bank_of,
    chosen,
    console,
    in_precision,
    progress,
    wide,
)
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from prob3r.studies import ModelUnderTest, Result


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(help="A study's name, a Python file that defines one, or all.")
    ] = "all",
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[str, typer.Option(help="rooms:test, or other pairs.")] = "rooms:test",
    pairs: Annotated[int, typer.Option(min=2, help="How many pairs, a sample of all.")] = 512,
    overlap: Overlap = None,
    rotation: Rotation = None,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out/studies"),
    checkpoints: Annotated[
        Path | None,
        typer.Option("--checkpoints", "--along", help="A folder of checkpoints of its training."),
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Put the claims to a model, with their controls; the same command goes on after a stop."""
    from prob3r.scenes.source import Pairs, open_pairs
    from prob3r.studies import STUDIES, LackingError, conduct, load_study, write_findings
    from prob3r.training.processes import launched

    studies = dict(STUDIES)
    if name.endswith(".py"):
        own = load_study(Path(name))
        studies[own.name] = own
        name = own.name
    if name != "all" and name not in studies:
        raise Prob3rError(
            f"There is no study '{name}'; give all, a Python file, or one of {', '.join(STUDIES)}."
        )
    processes = launched(device)
    tested, lacking = _tested(model, checkpoints, processes.device), dict[str, str]()
    for each in studies.values() if name == "all" else [studies[name]]:
        asked = each.data or data
        source: Pairs = open_pairs(asked, tested.model, processes.device)
        if overlap is not None or rotation is not None:
            source = chosen(asked, tested.model, processes.device, pairs, overlap, rotation)
        run = in_precision(precision, tested.model, tested.untrained, *tested.references.values())
        try:
            with progress() as report, run:
                result = conduct(
                    each(),
                    tested,
                    source,
                    pairs,
                    out,
                    asked,
                    lambda done, total, title=each.title: report(title, done / total),  # type: ignore[misc]
                    processes,
                )
        except LackingError as error:
            if name != "all":
                raise
            lacking[each.name] = str(error)
            continue
        if processes.first:
            _print(result, each.title)
            console.print(Text(f"Wrote {out / each.name}"), soft_wrap=True)
    if processes.first and lacking:
        _print_lacking(lacking)
    if processes.first and len(lacking) < len(studies):
        console.print(Text(f"Wrote {write_findings(out, list(studies))}"), soft_wrap=True)


@app.command()
def findings(
    folder: Annotated[Path, typer.Argument(help="A folder that studies were written into.")],
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("findings.md"),
) -> None:
    """Write the page of saved studies again."""
    from prob3r.studies import STUDIES, write_findings

    console.print(Text(f"Wrote {write_findings(folder, list(STUDIES), page)}"), soft_wrap=True)


def _tested(model: str, checkpoints: Path | None, device: "torch.device") -> "ModelUnderTest":
    """Return a model with its probes, where they are shipped, and what studies hold it against."""
    from prob3r.models import load, shipped
    from prob3r.probes import backbone_of
    from prob3r.studies import ModelUnderTest

    network = load(model, device)
    banks = {}
    for kind in ("mlp", "linear", "random", "encoder"):
        if kind == "linear" and "mlp" in banks:
            continue  # which studies read first
        try:
            banks[kind] = bank_of(model, kind).to(device)
        except Prob3rError:  # the study says which it needs
            continue
    read = {kind: backbone_of(bank, network) for kind, bank in banks.items()}
    others = {name: load(name, device) for name in shipped() if name != model}
    references = {name: other for name, other in others.items() if other.config == network.config}
    if checkpoints is not None:
        kept = sorted(checkpoints.glob("*.safetensors"))
        if not kept:
            raise Prob3rError(
                f"{checkpoints} holds no weights; give a folder of .safetensors files."
            )
        references |= {path.stem: load(path, device) for path in kept}
    return ModelUnderTest(network, model, banks, read.get("random"), references)


def _print_lacking(lacking: "Mapping[str, str]") -> None:
    table = Table("study", "why", title="Not measured, for what the model lacks")
    for name, why in lacking.items():
        table.add_row(Text(name), Text(why))
    wide(console).print(table)


def _print(result: "Result", title: str) -> None:
    table = Table("claim", "verdict", "effect [95 % interval]", "controls", title=title)
    for finding in result.findings:
        effect = f"{finding.effect:.3g} [{finding.low:.3g}, {finding.high:.3g}] {finding.unit}"
        table.add_row(
            f"{finding.claim}: {finding.statement}",
            finding.verdict,
            f"{effect}, {finding.pairs} pairs",
            finding.control,
        )
    wide(console).print(table)
