"""`prob3r train backbone`, `probes`, `reliability` and `strangers`."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Out,
    Overlap,
    Rotation,
    app,
    chosen,
    console,
    errors,
    progress,
)
from prob3r.cli.banks import AUTO, FitOn, FitTo, Probes, asked, reader_of
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.training import Progress as Stretch

ROOMS = "rooms:train"

training = typer.Typer(help="Train a backbone, its probes, or a calibration.", no_args_is_help=True)
app.add_typer(training, name="train")


@training.command()
def backbone(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name, or a TOML file.")
    ] = "mini",
    out: Out = Path("out/backbone"),
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    photographs: Annotated[
        Path | None, typer.Option(help="Photographs for the surfaces of everyday rooms.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="Folders of real pairs with poses, to validate on too.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a backbone; the same command goes on with a run that was stopped.

    Under `accelerate launch` several processes share each batch.
    """
    from prob3r.training import Recipe, train_backbone
    from prob3r.training.processes import launched

    processes = launched(device)
    with _progress() as report:
        best = train_backbone(
            Recipe.read(recipe),
            out,
            seconds=_seconds(minutes),
            report=report,
            photographs=photographs,
            real=real,
            processes=processes,
        )
    if processes.first:
        console.print(Text(f"The best weights so far are {best}"), soft_wrap=True)


@training.command()
def probes(
    model: ModelName = DEFAULT_MODEL,
    kind: Annotated[str, typer.Option(help="mlp, tuned, random or encoder.")] = "mlp",
    out: Out = Path("out/probes"),
    data: Annotated[str, typer.Option(help="rooms:train, or pairs with the full truth.")] = ROOMS,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to see.")] = 32768,
    overlap: Overlap = None,
    rotation: Rotation = None,
    batch: Annotated[int, typer.Option(min=2, help="Pairs a step, of all processes.")] = 8,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts of a process's batch.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Products in bfloat16.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a probe bank on a frozen backbone; the same command goes on after a stop.

    Under `accelerate launch` several processes share each batch.
    """
    from prob3r.models import load
    from prob3r.scenes.source import Pairs, open_pairs
    from prob3r.training.probes import bank_for, default_training, train_probes
    from prob3r.training.processes import launched

    if kind == "linear":  # such banks are still read
        raise Prob3rError(
            "Linear probes are not trained any more; ridge probes are linear too and fitted at "
            "once by `prob3r probes fit`, or give mlp, tuned, random or encoder."
        )
    processes = launched(device)
    network, bank = bank_for(load(model, processes.device), kind)
    default = default_training(network, pairs)
    how = replace(
        default,
        stage=replace(default.stage, batch=batch),
        accumulate=accumulate,
        bf16=bf16,
        workers=workers,
    )
    bounds = overlap, rotation
    source: Pairs | None = None
    if bounds != (None, None):
        source = chosen(data, network, processes.device, pairs, *bounds)
    elif data != ROOMS:
        source = open_pairs(data, network, processes.device)
    if source is not None:  # of few pairs, most are to learn from
        how = replace(how, validation_pairs=min(how.validation_pairs, -(-len(source) // 8)))
    with _progress() as report:
        best = train_probes(
            network, bank, how, out, _seconds(minutes), report, pairs=source, processes=processes
        )
    if processes.first:
        console.print(Text(f"The best probes so far are {best}"), soft_wrap=True)


@training.command()
def reliability(
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = AUTO,
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    data: Annotated[
        str, typer.Option(help="Pairs with truth; not those to test on.")
    ] = "rooms:validation",
    pairs: Annotated[int, typer.Option(min=2, help="How many pairs, a sample of all.")] = 512,
    overlap: Overlap = None,
    rotation: Rotation = None,
    matcher: Annotated[
        str | None,
        typer.Option(help="LightGlue or SIFT: also read an independent check by its matches."),
    ] = None,
    out: Out = Path("out/reliability.json"),
    device: Device = "cpu",
) -> None:
    """Calibrate how likely an outcome is wrong, by what shows inside; explain then says it."""
    from prob3r.io.files import make_folder
    from prob3r.measures.statistics import as_text
    from prob3r.models import load
    from prob3r.reliability.calibration import Calibration
    from prob3r.reliability.matchers import MATCHERS

    if matcher is not None and matcher not in MATCHERS:
        raise Prob3rError(f"There is no matcher '{matcher}'; give one of {', '.join(MATCHERS)}.")
    network = load(model, device)
    bank = reader_of(network, model, probes, asked(fit_to, fit_on))
    make_folder(out.parent)
    source = chosen(data, network, device, pairs, overlap, rotation)
    with progress() as report:
        calibration = Calibration.of(
            network,
            bank,
            source,
            pairs,
            model_name=model,
            data=data,
            matcher=matcher,
            report=lambda done, total: report("Calibrating", done / total),
        )
    calibration.save(out)
    console.print(
        f"{calibration.failed} of {calibration.pairs} pairs are off by more than "
        f"{calibration.degrees:g} degrees; AUROC {as_text(calibration.auroc, 3, '-')}, "
        f"of the model's confidence alone {as_text(calibration.confidence_auroc, 3, '-')}",
        soft_wrap=True,
    )
    console.print(Text(f"Wrote {out}"), soft_wrap=True)


@training.command()
def strangers(
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[
        str, typer.Option(help="Scenes of several views; not those to test on.")
    ] = "rooms:validation",
    scenes: Annotated[int, typer.Option(min=10, help="How many scenes, a sample of all.")] = 256,
    views: Annotated[int, typer.Option(min=3, help="Views of each scene.")] = 4,
    out: Out = Path("out/strangers.json"),
    device: Device = "cpu",
) -> None:
    """Calibrate how likely a view is of another scene; explain and view then name it."""
    from prob3r.io.files import make_folder
    from prob3r.measures.statistics import as_text
    from prob3r.models import load
    from prob3r.reliability.strangers import StrangerCalibration
    from prob3r.scenes.several import open_views

    network = load(model, device)
    most = network.most_views
    if most is not None and most < views:
        raise Prob3rError(f"{model} takes at most {most} views, and --views is {views}.")
    make_folder(out.parent)
    with progress() as report:
        calibration = StrangerCalibration.of(
            network,
            open_views(data, network, views, device),
            scenes,
            model_name=model,
            data=data,
            report=lambda done, total: report("Calibrating", done / total),
        )
    calibration.save(out)
    console.print(
        f"{calibration.strangers} of {calibration.scenes * (calibration.views - 1)} views are "
        f"strangers; AUROC {as_text(calibration.auroc, 3, '-')}",
        soft_wrap=True,
    )
    console.print(Text(f"Wrote {out}"), soft_wrap=True)


def _seconds(minutes: float | None) -> float:
    return math.inf if minutes is None else 60 * minutes


@contextmanager
def _progress() -> Iterator[Callable[["Stretch"], None]]:
    """Give a function that shows where a training run stands."""
    columns = (
        TextColumn("stage {task.fields[stage]}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} pairs"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("compiling", total=None, stage=0)

        def report(at: "Stretch") -> None:
            metrics = " ".join(f"{k} {v:.3g}" for k, v in list(at.metrics.items())[:5])
            speed = f"{at.pairs_per_second:.1f} pairs/s, loss {at.loss:.4f} {metrics}"
            if not errors.is_terminal:  # where there is no bar, such as in a log file
                line = f"stage {at.stage}, {at.pairs}/{at.of_pairs} pairs, {speed}"
                errors.print(Text(line), soft_wrap=True)
            bar.update(
                task, description=speed, completed=at.pairs, total=at.of_pairs, stage=at.stage
            )

        yield report
