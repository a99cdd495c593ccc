"""The command line: each command is one call into the library."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from prob3r.errors import Prob3rError

if TYPE_CHECKING:  # each command imports what it needs, so that --help is quick
    import pandas as pd

    from prob3r.data import Pair
    from prob3r.models import DUSt3R
    from prob3r.probes import ProbeBank
    from prob3r.training import Progress as Stretch

app = typer.Typer(
    help="Look inside multi-view transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
training = typer.Typer(help="Train a backbone or its probes.", no_args_is_help=True)
app.add_typer(training, name="train")

DEFAULT_MODEL = "mini-matched"
TABLE_WIDTH = 140
DEMO_ROOM = 2  # indoors, with several objects in both views

console = Console()
errors = Console(stderr=True)

Model = Annotated[str, typer.Option(help="A shipped model's name, or a checkpoint's path.")]
Probes = Annotated[str, typer.Option(help="The probes' kind, or the path of a probe bank.")]
Out = Annotated[Path, typer.Option(help="Where to write.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, …")]


def main() -> None:
    """Run the command line; what the user can mend is one sentence and exit code 1."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=errors)]
    )
    try:
        app()
    except Prob3rError as error:
        errors.print(Text(f"prob3r: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("prob3r: stopped.", style="red")
        sys.exit(130)


@app.command()
def explain(
    image1: Annotated[Path, typer.Argument(help="View 1, the reference, or a pair's folder.")],
    image2: Annotated[Path | None, typer.Argument(help="View 2.")] = None,
    model: Model = DEFAULT_MODEL,
    probes: Probes = "mlp",
    out: Out = Path("prob3r.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also the numbers.")] = None,
    ply: Annotated[Path | None, typer.Option(help="Also both pointmaps.")] = None,
    device: Device = "cpu",
) -> None:
    """Explain a model's reconstruction of two photographs, in one HTML page."""
    from prob3r.data import Pair
    from prob3r.models import load

    network = load(model, device)
    if image2 is not None:
        pair = Pair.from_images(image1, image2, network)
    elif image1.is_dir():
        pair = Pair.from_folder(image1, network)
    else:
        raise Prob3rError("explain needs two photographs, or one folder with a pair.json.")
    _explain(network, pair.to(device), model, probes, out, json_file, ply)


@app.command()
def demo(
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out"),
) -> None:
    """Explain the bundled photographs, and a procedural room whose truth is known."""
    from prob3r.data import Pair
    from prob3r.data.rooms import Rooms
    from prob3r.files import make_folder
    from prob3r.models import load

    network = load(model)
    books = Path(str(files("prob3r.data") / "pairs" / "books"))
    make_folder(out)
    room = Rooms("test", size=network.config.image_size, compile=False)[DEMO_ROOM]
    _explain(network, room, model, "mlp", out / "room.html")
    _explain(network, Pair.from_folder(books, network), model, "mlp", out / "books.html")


@app.command()
def evaluate(
    model: Model = DEFAULT_MODEL,
    data: Annotated[
        str, typer.Option(help="rooms:test, rooms:validation, or a folder of pairs.")
    ] = "rooms:test",
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 512,
    probes: Annotated[
        str | None, typer.Option(help="Also every site of these probes: a kind, or a path.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The table's rows.")] = None,
    device: Device = "cpu",
) -> None:
    """Measure a model on pairs, beside what it would score without looking at view 1."""
    from prob3r.data.source import open_pairs
    from prob3r.models import load, random
    from prob3r.probes import check_backbone
    from prob3r.studies import evaluate as measure
    from prob3r.studies.evaluation import write_rows

    network = load(model, device)
    if probes == "random":
        network = random(network).to(device)
    bank = _bank(model, probes).to(device) if probes else None
    if bank:
        check_backbone(bank, network)
    with _progress() as report:
        table = measure(
            network,
            open_pairs(data, network, device),
            pairs,
            bank,
            report=lambda done, total: report("Pairs", done / total),
        )
    print_evaluation(console, table, f"{model} on {data}")
    if json_file is not None:
        write_rows(table, json_file)


@app.command()
def rooms(
    out: Out = Path("rooms.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    start: Annotated[int, typer.Option(min=0, help="Number of the first pair.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 8,
    size: Annotated[int, typer.Option(min=8, help="Side of an image, in pixels.")] = 192,
    lookalikes: Annotated[bool, typer.Option(help="Two or three instances of one object.")] = False,
    photographs: Annotated[Path | None, typer.Option(help="A folder of textures.")] = None,
) -> None:
    """Draw a contact sheet of procedural pairs: both views, and both depths."""
    from prob3r.data.rooms import Rooms, contact_sheet
    from prob3r.files import written

    source = Rooms(
        split, (size, size), lookalikes=lookalikes, photographs=photographs, compile=False
    )
    sheet = contact_sheet(source.batch(range(start, start + count)))
    with written(out) as path:
        sheet.save(path, format="PNG")
    console.print(Text(f"Wrote {out}"), soft_wrap=True)


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

    with _training_progress() as report:
        best = train_backbone(Recipe.read(recipe), out, device, _seconds(minutes), report)
    console.print(Text(f"The best weights so far are {best}"), soft_wrap=True)


@training.command()
def probes(
    model: Model = DEFAULT_MODEL,
    kind: Annotated[str, typer.Option(help="mlp, linear, random or encoder.")] = "mlp",
    out: Out = Path("out/probes"),
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to see.")] = 32768,
    minutes: Annotated[float | None, typer.Option(help="Stop, resumable, after this long.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a probe bank on a frozen backbone; the same command goes on after a stop."""
    from prob3r.models import load
    from prob3r.probes.training import bank_for, default_training, train_probes

    network, bank = bank_for(load(model, device), kind)
    with _training_progress() as report:
        best = train_probes(
            network, bank, default_training(network, pairs), out, _seconds(minutes), report
        )
    console.print(Text(f"The best probes so far are {best}"), soft_wrap=True)


def print_evaluation(to: Console, table: "pd.DataFrame", title: str) -> None:
    """Print an evaluation: strata and metrics by source, and sites by metric if it has any."""
    from prob3r.studies.evaluation import EASY, HARD, HEAD

    # A narrow terminal may wrap the lines, but no number may be cut.
    to = Console(file=to.file, width=max(to.width, TABLE_WIDTH))
    head, sites = table[table.site == HEAD], table[table.site != HEAD]
    sources = list(dict.fromkeys(head.source))
    printed = Table("stratum", "metric", "view", *sources, title=title)
    printed.caption = f"median [95 % interval]; easy: {EASY}; hard: {HARD}"
    for (stratum, metric, view), rows in head.groupby(["stratum", "metric", "view"], sort=False):
        cells = {row.source: _cell(row) for row in rows.itertuples()}
        printed.add_row(stratum, metric, str(view), *(cells.get(s, "") for s in sources))
    to.print(printed)
    if sites.empty:
        return
    shown = sites[(sites.stratum == "all") & (sites.view == 2)]
    metrics = [metric for metric in dict.fromkeys(shown.metric) if metric.endswith("_error")]
    printed = Table("site", *metrics, title=f"{title}: probes of view 2, all pairs")
    for site, rows in shown.groupby("site", sort=False):
        printed.add_row(
            site, *(f"{value:.3g}" for value in rows.set_index("metric").value[metrics])
        )
    to.print(printed)


def _cell(row: Any) -> str:
    return f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"


def _seconds(minutes: float | None) -> float:
    return math.inf if minutes is None else 60 * minutes


def _bank(model: str, probes: str) -> "ProbeBank":
    """Return the probes at a path, or a shipped model's of a kind."""
    from prob3r.models import shipped
    from prob3r.probes import load_probes

    if Path(probes).suffix:
        return load_probes(probes)
    if model not in shipped():
        raise Prob3rError(
            f"No '{probes}' probes are shipped for '{model}'; give --probes the path of a bank."
        )
    return load_probes(model, probes)


def _explain(
    network: "DUSt3R",
    pair: "Pair",
    model: str,
    probes: str,
    out: Path,
    json_file: Path | None = None,
    ply: Path | None = None,
) -> None:
    """Explain one pair and write what was asked for, the page last."""
    from prob3r.probes import check_backbone
    from prob3r.report import explain, write_json, write_page, write_ply

    bank = _bank(model, probes).to(pair.view1.image.device)
    check_backbone(bank, network)
    with _progress() as report:
        explanation = explain(network, pair, bank, model_name=model, progress=report)
    for write, path in ((write_json, json_file), (write_ply, ply), (write_page, out)):
        if path is not None:
            write(explanation, path)
            console.print(Text(f"Wrote {path}"), soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """Give a function that shows what is being done, and what share of it is."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    hidden = not errors.is_terminal  # there it would leave an empty line
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task("Loading", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


@contextmanager
def _training_progress() -> Iterator[Callable[["Stretch"], None]]:
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
