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
    check_views,
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
        str, typer.Argument(help="The name of a shipped recipe, or a TOML file.")
    ] = "mini",
    out: Out = Path("out/backbone"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this many minutes; the same command continues the run."),
    ] = None,
    photographs: Annotated[
        Path | None,
        typer.Option(help="A folder of photographs, as textures of everyday rooms."),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="A folder with folders of real pairs with poses, for validation too."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a backbone. After an interruption, run the same command again to continue.

    Under `accelerate launch` several processes share each batch.
    """
    from prob3r.training import Recipe, train_backbone
    from prob3r.training.processes import launched

    processes = launched(device)
    with _progress(processes.first) as report:
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
    kind: Annotated[
        str, typer.Option(help="Kind of probes: mlp, tuned, random or encoder.")
    ] = "mlp",
    out: Out = Path("out/probes"),
    data: Annotated[
        str, typer.Option(help="The data: rooms:train, or pairs with true pointmaps and poses.")
    ] = ROOMS,
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs to train on.")] = 32768,
    overlap: Overlap = None,
    rotation: Rotation = None,
    batch: Annotated[
        int, typer.Option(min=2, help="Pairs of a step, summed over all processes.")
    ] = 8,
    accumulate: Annotated[
        int,
        typer.Option(min=1, help="Parts into which a process splits its share of a batch."),
    ] = 1,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute matrix products in bfloat16.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of processes that read pairs in advance.")
    ] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this many minutes; the same command continues the run."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Train a probe bank on a frozen backbone.

    After an interruption, run the same command again to continue. Under `accelerate launch` several
    processes share each batch.
    """
    from prob3r.models import load
    from prob3r.scenes.source import Pairs, open_pairs
    from prob3r.training.probes import bank_for, default_training, train_probes
    from prob3r.training.processes import launched

    if kind == "linear":  # existing banks of this kind can still be loaded
        raise Prob3rError(
            "Linear probes are not trained any more; ridge probes are linear too: fit them with "
            "`prob3r probes fit`, or give mlp, tuned, random or encoder."
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
    if source is not None:  # keep at most 1/8 of few pairs for validation
        how = replace(how, validation_pairs=min(how.validation_pairs, -(-len(source) // 8)))
    with _progress(processes.first) as report:
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
        str, typer.Option(help="Pairs with truth; do not use pairs that you will test on.")
    ] = "rooms:validation",
    pairs: Annotated[
        int, typer.Option(min=2, help="Number of pairs, a random sample of the data.")
    ] = 512,
    overlap: Overlap = None,
    rotation: Rotation = None,
    matcher: Annotated[
        str | None,
        typer.Option(
            help="LightGlue or SIFT: also use the independent check by matches of this matcher."
        ),
    ] = None,
    out: Out = Path("out/reliability.json"),
    device: Device = "cpu",
) -> None:
    """Calibrate the probability that an output is wrong, from signals inside the model.

    `prob3r explain` uses the calibration.
    """
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
        str,
        typer.Option(help="Scenes of several views; do not use scenes that you will test on."),
    ] = "rooms:validation",
    scenes: Annotated[
        int, typer.Option(min=10, help="Number of scenes, a random sample of the data.")
    ] = 256,
    views: Annotated[int, typer.Option(min=3, help="Number of views of each scene.")] = 4,
    out: Out = Path("out/strangers.json"),
    device: Device = "cpu",
) -> None:
    """Calibrate the probability that a view belongs to another scene.

    `prob3r explain` and `prob3r view` use the calibration to name such views.
    """
    from prob3r.io.files import make_folder
    from prob3r.measures.statistics import as_text
    from prob3r.models import load
    from prob3r.reliability.strangers import StrangerCalibration
    from prob3r.scenes.several import open_views

    network = load(model, device)
    check_views(network, model, views)
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
def _progress(first: bool) -> Iterator[Callable[["Stretch"], None]]:
    """Yield a function that shows the progress of a training run, in the first process alone."""
    columns = (
        TextColumn("stage {task.fields[stage]}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} pairs"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=errors, disable=not (first and errors.is_terminal)) as bar:
        task = bar.add_task("compiling", total=None, stage=0)

        def report(at: "Stretch") -> None:
            metrics = " ".join(f"{k} {v:.3g}" for k, v in list(at.metrics.items())[:5])
            speed = f"{at.pairs_per_second:.1f} pairs/s, loss {at.loss:.4f} {metrics}"
            if first and not errors.is_terminal:  # no bar is drawn, for example in a log file
                line = f"stage {at.stage}, {at.pairs}/{at.of_pairs} pairs, {speed}"
                errors.print(Text(line), soft_wrap=True)
            bar.update(
                task, description=speed, completed=at.pairs, total=at.of_pairs, stage=at.stage
            )

        yield report
