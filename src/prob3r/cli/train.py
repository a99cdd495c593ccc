"""`prob3r train backbone` and `prob3r train probes`."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from prob3r.cli.app import DEFAULT_MODEL, Device, Model, Out, app, console, errors

if TYPE_CHECKING:
    from prob3r.training import Progress as Stretch

training = typer.Typer(help="Train a backbone or its probes.", no_args_is_help=True)
app.add_typer(training, name="train")


@training.command()
def backbone(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name, or a TOML file.")
    ] = "mini",
    out: Out = Path("out/backbone"),
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a backbone; the same command goes on with a run that was stopped."""
    from prob3r.training import Recipe, train_backbone

    with _progress() as report:
        best = train_backbone(Recipe.read(recipe), out, device, _seconds(minutes), report)
    console.print(Text(f"The best weights so far are {best}"), soft_wrap=True)


@training.command()
def probes(
    model: Model = DEFAULT_MODEL,
    kind: Annotated[str, typer.Option(help="mlp, linear, tuned, random or encoder.")] = "mlp",
    out: Out = Path("out/probes"),
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to see.")] = 32768,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a probe bank on a frozen backbone; the same command goes on after a stop."""
    from prob3r.models import load
    from prob3r.probes.training import bank_for, default_training, train_probes

    network, bank = bank_for(load(model, device), kind)
    with _progress() as report:
        best = train_probes(
            network, bank, default_training(network, pairs), out, _seconds(minutes), report
        )
    console.print(Text(f"The best probes so far are {best}"), soft_wrap=True)


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
            speed = f"{at.pairs_per_second:.0f} pairs/s, loss {at.loss:.4f} {metrics}"
            bar.update(
                task, description=speed, completed=at.pairs, total=at.of_pairs, stage=at.stage
            )

        yield report
