"""`prob3r study`."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    chosen,
    console,
    errors,
    in_precision,
    progress,
    wide,
)
from prob3r.cli.banks import AUTO, NONE, FitOn, FitTo, Probes, asked, maybe_reader, shown
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.probes import Asked, SiteReader
    from prob3r.scenes.source import Scenes
    from prob3r.studies import ModelUnderTest, Result, Study
    from prob3r.training.processes import Processes


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(help="A study's name, a Python file that defines one, or all.")
    ] = "all",
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[
        str, typer.Option(help="The data to test on: rooms:test, or a data set.")
    ] = "rooms:test",
    pairs: Annotated[
        int, typer.Option(min=2, help="Number of pairs or scenes, a random sample of the data.")
    ] = 512,
    views: Annotated[
        int | None,
        typer.Option(min=2, help="Number of views of a scene, in studies of many views."),
    ] = None,
    overlap: Overlap = None,
    rotation: Rotation = None,
    probes: Probes = AUTO,
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out/studies"),
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints", "--along", help="A folder of checkpoints of the model's training."
        ),
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Test the claims on a model, with controls.

    After an interruption, run the same command again to continue.
    """
    from prob3r.scenes.several import open_views
    from prob3r.studies import STUDIES, conduct, leave_out, load_study, write_findings
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
    which = asked(fit_to, fit_on, precision)
    tested = _tested(model, checkpoints, processes)
    wanted = [study() for study in (studies.values() if name == "all" else [studies[name]])]
    for each in wanted:
        each.choose_views(tested.model, views)
    lacking = _lacking(wanted, tested, probed=probes == NONE)
    if processes.first:
        with in_precision(precision, tested.model):
            _print_plan(wanted, tested, data, pairs, lacking)
    tested = _probed(tested, probes, which, processes)
    lacking = _lacking(wanted, tested, probed=True)
    with in_precision(precision, tested.model, tested.untrained, *tested.references.values()):
        for each in wanted:
            if name == "all" and each.name in lacking:
                if processes.first:
                    leave_out(each, lacking[each.name], out)
                continue
            given = each.data or data
            source: Scenes[Any]
            if each.views == 2 and (overlap is not None or rotation is not None):
                source = chosen(given, tested.model, processes.device, pairs, overlap, rotation)
            else:
                source = open_views(given, tested.model, each.views, processes.device)
            with progress() as report:
                show = _timed(each.title, report)
                result = conduct(each, tested, source, pairs, out, given, show, processes)
            if processes.first:
                _print(result, each.title)
                console.print(Text(f"Wrote {out / each.name}"), soft_wrap=True)
    if processes.first and len(lacking) < len(studies):
        console.print(Text(f"Wrote {write_findings(out, list(studies))}"), soft_wrap=True)


@app.command()
def findings(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders that `prob3r study` wrote, one for each model and data set."),
    ],
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("findings.md"),
) -> None:
    """Write the page of saved studies again, with claims in rows and models in columns."""
    from prob3r.studies import STUDIES, write_findings

    console.print(Text(f"Wrote {write_findings(folders, list(STUDIES), page)}"), soft_wrap=True)


def _lacking(wanted: "list[Study[Any]]", tested: "ModelUnderTest", probed: bool) -> dict[str, str]:
    """Return the studies that cannot be run on this model, and the reason for each.

    Args:
        wanted: The studies.
        tested: The model.
        probed: Whether it has all the probes that it will have.
    """
    from prob3r.studies import LackingError

    found = {}
    for each in wanted:
        try:
            each.check(tested)
            if probed:
                each.check_probes(tested)
        except LackingError as error:
            found[each.name] = str(error)
    return found


def _print_plan(
    wanted: "list[Study[Any]]",
    tested: "ModelUnderTest",
    data: str,
    pairs: int,
    lacking: Mapping[str, str],
) -> None:
    """Print the studies that will run, their data, what is missing, and the time they take."""
    from prob3r.probes.fit import seconds_of_a_run
    from prob3r.probes.provide import duration
    from prob3r.rooms import Rooms

    table = Table(
        *("study", "data", "scenes", "views", "prepared on", "missing"),
        title=f"The plan for {tested.name}",
    )
    total = prepared = 0
    for each in wanted:
        why, count = lacking.get(each.name), min(pairs, each.most or pairs)
        missing = ", ".join(f"the control {name}" for name in each.missing_controls(tested))
        total += 0 if why else count
        before = 0 if why else each.prepares_on(tested.model)
        prepared += before
        pairs_of, runs = "not run" if why else str(count), str(before or "")
        about = each.title, each.data or data, pairs_of, str(each.views), runs
        table.add_row(*about, Text(why or missing))
    rooms = Rooms("test", tested.model.config.image_size, compile=False)
    seconds = seconds_of_a_run(tested.model, rooms)
    models = [tested.model, *tested.references.values()]
    held = sum(weight.nbytes for model in models for weight in model.parameters()) / 2**30
    table.caption = (
        f"One run of the model on one pair takes {seconds:.2g} s, on all pairs "
        f"{duration(seconds * total)}, and on those that studies prepare on "
        f"{duration(seconds * prepared)}. A study runs the model several times on each pair; after "
        f"its first batch it prints the time that is left. The models take {held:.1f} GiB, without "
        "probes."
    )
    wide(console).print(table)


def _timed(title: str, report: Callable[[str, float], None]) -> Callable[[int, int], None]:
    """Return a function that shows how many pairs are done.

    After the first batch it also prints the time that is left.
    """
    from prob3r.probes.provide import duration

    start, said = time.monotonic(), False

    def show(done: int, total: int) -> None:
        nonlocal said
        if not said and done < total:
            left = (time.monotonic() - start) * (total - done) / done
            errors.print(f"{title}: about {duration(left)} left.", soft_wrap=True)
        said = True
        report(title, done / total)

    return show


def _tested(model: str, checkpoints: Path | None, processes: "Processes") -> "ModelUnderTest":
    """Return a model, still without probes, with the models that studies compare it with."""
    from prob3r.models import load, shipped
    from prob3r.studies import ModelUnderTest
    from prob3r.studies.framework.tested import POSITIVE

    device = processes.device
    network = load(model, device)
    others = {name: load(name, device) for name in shipped() if name != model}
    references = {
        name: other
        for name, other in others.items()
        if name == POSITIVE or other.config == network.config
    }
    if checkpoints is not None:
        kept = sorted(checkpoints.glob("*.safetensors"))
        if not kept:
            raise Prob3rError(
                f"{checkpoints} holds no weights; give a folder of .safetensors files."
            )
        references |= {path.stem: load(path, device) for path in kept}
    return ModelUnderTest(network, model, references=references)


def _probed(
    tested: "ModelUnderTest", probes: str, which: "Asked", processes: "Processes"
) -> "ModelUnderTest":
    """Return the model under test with its probes and their controls, fitted where they lack."""
    from dataclasses import replace

    from prob3r.probes import backbone_of

    if not processes.first:  # the first process fits missing banks; the others then find them
        processes.wait()
    banks = _banks(tested.model, tested.name, probes, which)
    if processes.first:
        processes.wait()
    read = {kind: backbone_of(bank, tested.model) for kind, bank in banks.items()}
    return replace(tested, banks=banks, untrained=read.get("random"))


def _banks(network: "Model", model: str, probes: str, which: "Asked") -> dict[str, "SiteReader"]:
    """Return the probes and their controls by kind, shipped or fitted; empty for `none`."""
    from dataclasses import replace

    from prob3r.probes import RidgeBank, load_probes, provide, shipped_probes
    from prob3r.probes.settings import groups
    from prob3r.studies.framework.tested import CONTROLS

    bank = maybe_reader(network, model, probes, which)
    if bank is None:
        return {}
    device = next(network.parameters()).device
    found = {bank.kind: bank}
    if not isinstance(bank, RidgeBank) and shipped_probes(model, bank.kind):
        kinds = [kind for kind in CONTROLS if shipped_probes(model, kind)]
        return found | {kind: load_probes(model, kind).to(device) for kind in kinds}
    if (
        isinstance(bank, RidgeBank) and bank.fit is not None
    ):  # controls have the same target and data
        which = replace(which, whose=bank.fit.whose, data=bank.fit.data)
    controls = CONTROLS if len(groups(network)) > 1 else CONTROLS[:1]
    with shown() as show:
        return found | provide(network, controls, which, Path(model).name, show)


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
