"""`prob3r plan`."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from prob3r.cli.app import DEFAULT_MODEL, app, console, wide
from prob3r.errors import Prob3rError
from prob3r.io.files import writing_to

if TYPE_CHECKING:
    from prob3r.cost.jobs import Cost
    from prob3r.cost.plan import Plan

GIB = 2**30


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="The name of a shipped or published model, or the path of a checkpoint."
        ),
    ] = DEFAULT_MODEL,
    size: Annotated[
        str | None,
        typer.Option(help="Image size in pixels: 224, or 512x384 for width and height."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Number of scenes in a batch.")] = 1,
    views: Annotated[int, typer.Option(help="Number of views of each scene.")] = 2,
    record: Annotated[
        list[str] | None,
        typer.Option(help="Patterns of the sites to trace; by default all residual sites."),
    ] = None,
    kind: Annotated[str, typer.Option(help="Kind of the probes: mlp or linear.")] = "mlp",
    sites: Annotated[
        str | None,
        typer.Option(
            help="Attention sublayers to sweep; by default view 2's attention to other views."
        ),
    ] = None,
    memory: Annotated[
        float,
        typer.Option(min=0, help="Memory of a sweep for variants that run as one batch, in GiB."),
    ] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers to this file.")
    ] = None,
) -> None:
    """Estimate memory and operations of work on a model, without running it."""
    from prob3r.cost.jobs import EVERY_SITE
    from prob3r.cost.plan import plan as planned

    found = planned(
        model,
        _size(size),
        batch,
        record or EVERY_SITE,
        kind,
        int(memory * GIB),
        views=views,
        sites=sites,
    )
    if json_file is not None:
        with writing_to(json_file) as temporary:
            temporary.write_text(json.dumps({"model": model} | found.to_dict(), indent=1))
    wide(console).print(_table(model, kind, found))


def _size(text: str | None) -> tuple[int, int] | None:
    """Return height and width in pixels; raise Prob3rError if the text is not a size."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None:
        raise Prob3rError(f"size is '{text}'; write one like 224, or 512x384 for width and height.")
    return int(found[2] or found[1]), int(found[1])


def _table(model: str, kind: str, found: "Plan") -> Table:
    height, width = found.size
    pairs = "one pair" if found.batch == 1 else f"{found.batch} pairs"
    if found.views > 2:
        scenes = "one scene" if found.batch == 1 else f"{found.batch} scenes"
        pairs = f"{scenes} of {found.views} views"
    columns = ("weights", "records", "gradients", "optimizer", "activations", "operations")
    table = Table("", "memory", *columns, title=f"{model}: {pairs} of {width}x{height} pixels")
    table.caption = (
        "float32 on a CPU; not included: Python, its libraries, the reading of pairs, and, if "
        "pairs share views, a cache of up to 1 GiB of encoded views"
    )
    table.add_row(f"trace {found.tracing.count} records", *_cells(found.tracing))
    on_pairs = " on pairs" if found.views > 2 else ""
    probes = f"train {found.training.count} {kind} probes{on_pairs}, a step"
    table.add_row(probes, *_cells(found.training))
    swept = found.sweeping
    if swept is not None:
        cells = _cells(swept)
        cells[-1] += f"\n{swept.naive / swept.operations:.1f} times fewer than whole runs"
        table.add_row(f"sweep {swept.count} heads, {swept.at_once} at once", *cells)
    parts = found.attributing
    cells = _cells(parts)
    cells[-1] += f"\nas many as {parts.operations / parts.forward:.1f} runs"
    table.add_row(f"attribute to {parts.count} heads and sublayers", *cells)
    return table


def _cells(cost: "Cost") -> list[str]:
    parts = cost.weights, cost.records, cost.gradients, cost.optimizer, cost.activations
    return [_bytes(cost.total), *map(_bytes, parts), _operations(cost.operations)]


def _bytes(count: int) -> str:
    if not count:
        return ""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def _operations(count: int) -> str:
    return f"{count / 1e12:.2f} TFLOP" if count >= 1e12 else f"{count / 1e9:.1f} GFLOP"
