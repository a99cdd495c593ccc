"""`prob3r sweep heads` and `prob3r means`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Out,
    Overlap,
    PrecisionName,
    Rotation,
    app,
    chosen,
    console,
    in_precision,
    pair_of,
    progress,
    wide,
)
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    import pandas as pd

    from prob3r.models import Model
    from prob3r.scenes import Pair

sweeps = typer.Typer(help="Switch parts off, one at a time.", no_args_is_help=True)
app.add_typer(sweeps, name="sweep")

SHOWN = {
    "rotation_error": "rotation error, degrees",
    "translation_error": "translation error, degrees",
    "shape_error": "shape error",
    "pointmap_error2": "pointmap error of view 2",
}

Data = Annotated[str, typer.Option(help="The data: rooms:test, rooms:train, or a folder of pairs.")]
Count = Annotated[int, typer.Option(min=1, help="Number of pairs, a random sample of the data.")]


@sweeps.command()
def heads(
    image1: Annotated[
        Path | None, typer.Argument(help="Photograph of view 1, or the folder of a pair.")
    ] = None,
    image2: Annotated[Path | None, typer.Argument(help="Photograph of view 2.")] = None,
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[
        str | None, typer.Option(help="A data set instead of photographs: rooms:test, …")
    ] = None,
    pairs: Count = 32,
    overlap: Overlap = None,
    rotation: Rotation = None,
    sites: Annotated[
        str | None,
        typer.Option(help="Attention sublayers; by default view 2's attention to view 1."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help="What replaces the output of a head: zero, mean or resample; may be repeated."
        ),
    ] = None,
    means: Annotated[
        Path | None, typer.Option(help="For mode mean: the file that `prob3r means` wrote.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows of the table to this file.")
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Switch off every head, one at a time, and measure the effect on pose and shape."""
    from prob3r.models import load
    from prob3r.runs.edits import Means
    from prob3r.runs.sweep import summarise, sweep_heads
    from prob3r.studies.evaluation import write_rows
    from prob3r.studies.framework.results import frames_of, provenance

    network = load(model, device)
    batches, count, sample = _pairs(network, image1, image2, data, (pairs, overlap, rotation))
    modes = mode or ["zero"]
    found = Means.load(means) if means else None
    runs = len(modes) * count * _heads(network, sites)
    names = list[str]()
    with progress() as report, in_precision(precision, network, heavy=True):
        table = summarise(
            sweep_heads(
                network,
                _noting(batches, names),
                sites,
                modes,
                found,
                report=lambda done: report("Runs", done / runs),
            )
        )
    table.attrs["sample"] = sample
    for each in modes:
        for metric, words in SHOWN.items():
            rows = table[(table["mode"] == each) & (table.metric == metric)]
            if not rows.empty:
                print_heat_map(console, rows, f"{words}: effect of one head off ({each})")
    if json_file is not None:
        protocol = {"name": "sweep heads", "sites": sites, "modes": modes}
        used = frames_of(names, sample)
        about = provenance(network, model, data or "photographs", protocol, used)
        write_rows(table, json_file, about)


def _noting(batches: "Iterator[Pair]", names: list[str]) -> "Iterator[Pair]":
    """Yield batches, and append the names of their pairs to a list."""
    for pair in batches:
        names += pair.names
        yield pair


@app.command()
def means(
    model: ModelName = DEFAULT_MODEL,
    data: Data = "rooms:train",
    pairs: Count = 512,
    overlap: Overlap = None,
    rotation: Rotation = None,
    out: Out = Path("means.safetensors"),
    device: Device = "cpu",
) -> None:
    """Compute the mean output of every head over a data set, for `--mode mean`."""
    from prob3r.models import load
    from prob3r.runs.edits import head_means
    from prob3r.scenes.source import batches

    network = load(model, device)
    source = chosen(data, network, device, pairs, overlap, rotation)
    total = len(source)
    with progress() as report:
        found = head_means(
            network, batches(source, total, 32), lambda done: report("Pairs", done / total)
        )
    found.save(out)
    console.print(Text(f"Wrote {out}, the means over {found.pairs} pairs"), soft_wrap=True)


def print_heat_map(to: Console, rows: "pd.DataFrame", title: str) -> None:
    """Print the effects on one metric as a grid of blocks and heads; red means a larger error."""
    pairs = int(rows.pairs.max())
    what = "effect on this pair" if pairs == 1 else f"median over {pairs} pairs [95 % interval]"
    grid = Table("sublayer", *(f"head {k}" for k in sorted(set(rows["head"]))), title=title)
    known = (
        f"without the edit {rows.clean.iloc[0]:.3g}" if rows.clean.any() else "no truth is known"
    )
    how = f"; {rows.attrs['sample']}" if pairs > 1 and "sample" in rows.attrs else ""
    ran = f"; in {rows.attrs['precision']}" if "precision" in rows.attrs else ""
    grid.caption = f"{what}; {known}{how}{ran}"
    strongest = rows.effect.abs().max() or 1.0
    for site, cells in rows.groupby("site", sort=False):
        grid.add_row(str(site), *(_cell(cell, pairs, strongest) for cell in cells.itertuples()))
    wide(to).print(grid)


def _cell(cell: object, pairs: int, strongest: float) -> Text:
    effect, low, high = (float(getattr(cell, name)) for name in ("effect", "low", "high"))
    text = f"{effect:+.3g}" if pairs == 1 else f"{effect:+.3g} [{low:+.2g}, {high:+.2g}]"
    pale = round(255 * (1 - abs(effect) / strongest))
    colour = f"rgb(255,{pale},{pale})" if effect > 0 else f"rgb({pale},{pale},255)"
    dark = abs(effect) > 0.6 * strongest
    return Text(text, Style.parse(f"{'white' if dark else 'black'} on {colour}"))


def _pairs(
    network: "Model",
    image1: Path | None,
    image2: Path | None,
    data: str | None,
    wanted: tuple[int, tuple[float, float] | None, tuple[float, float] | None],
) -> tuple["Iterator[Pair]", int, str]:
    """Return batches of the requested pairs, the number of pairs, and how they were chosen."""
    from prob3r.scenes.source import batches, describe

    if data is not None and image1 is None:
        source = chosen(data, network, next(network.parameters()).device, *wanted)
        return batches(source, len(source), 8), len(source), describe(source)
    if data is None and image1 is not None:
        return iter([pair_of(image1, image2, network)]), 1, "one pair"
    raise Prob3rError("sweep needs two photographs, a folder with a pair.json, or --data.")


def _heads(network: "Model", sites: str | None) -> int:
    from prob3r.models.protocol import stack_of, trunk
    from prob3r.models.sites import select

    if sites is None:
        return sum(trunk(network).heads for _ in trunk(network).between(2))
    stem = sites.removesuffix(".probs")
    chosen = select(f"{stem}.probs", network.attention_sites())
    return sum(stack_of(network, site).heads for site in chosen)
