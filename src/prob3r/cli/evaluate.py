"""`prob3r evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
    in_precision,
    progress,
    reader_of,
    wide,
)

if TYPE_CHECKING:
    import pandas as pd


SHORT = {
    "pointmap_error": "points",
    "rotation_error": "rotation",
    "translation_error": "translation",
    "inner_shape_error": "shape",
}
"""The metrics that readers are compared by, side by side, and their names in the table's head."""


@app.command()
def evaluate(
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[
        str, typer.Option(help="rooms:test, rooms:validation, or a folder of pairs.")
    ] = "rooms:test",
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs, a sample of all.")] = 512,
    overlap: Overlap = None,
    rotation: Rotation = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(help="Also every site: a kind of probes, logit, or a path. May be repeated."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="The table's rows.")] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Measure a model on pairs, beside what it would score without looking at view 1."""
    from prob3r.models import load
    from prob3r.studies import evaluate as measure
    from prob3r.studies.evaluation import write_rows

    network = load(model, device)
    readers = [reader_of(network, model, kind) for kind in probes or []]
    source = chosen(data, network, device, pairs, overlap, rotation)
    with progress() as report, in_precision(precision, network):
        table = measure(
            network,
            source,
            pairs,
            readers,
            report=lambda done, total: report("Pairs", done / total),
        )
    print_evaluation(console, table, f"{model} on {data}")
    if json_file is not None:
        write_rows(table, json_file)


def print_evaluation(to: Console, table: "pd.DataFrame", title: str) -> None:
    """Print an evaluation: strata and metrics by source, and sites by metric if it has any."""
    from prob3r.studies.evaluation import EASY, HARD, HEAD

    to = wide(to)
    head, sites = table[table.site == HEAD], table[table.site != HEAD]
    sources = list(dict.fromkeys(head.source))
    printed = Table("stratum", "metric", "view", *sources, title=title)
    sample = "".join(f"{name}: {words}; " for name, words in table.attrs.items())
    printed.caption = f"median [95 % interval]; {sample}easy: {EASY}; hard: {HARD}"
    for (stratum, metric, view), rows in head.groupby(["stratum", "metric", "view"], sort=False):
        cells = {row.source: _cell(row) for row in rows.itertuples()}
        printed.add_row(str(stratum), str(metric), str(view), *(cells.get(s, "") for s in sources))
    to.print(printed)
    if sites.empty:
        return
    shown = sites[(sites.stratum == "all") & (sites.view == 2)]
    sources = list(dict.fromkeys(shown.source))
    short = len(sources) > 1
    metrics = SHORT if short else {m: m for m in shown.metric if m.endswith("_error")}
    # Side by side, each metric is named once, over the first of its columns.
    heads = [
        f"{name if source == sources[0] else ''}\n{source}" if short else name
        for name in metrics.values()
        for source in sources
    ]
    printed = Table("site", *heads, title=f"{title}: read off view 2's sites, all pairs")
    if short:
        printed.box, printed.padding = SIMPLE_HEAD, (0, 1, 0, 0)
        printed.caption = "errors of view 2, angles in degrees; model: the MLP probes"
    values = shown.set_index(["site", "source", "metric"]).value
    for site in dict.fromkeys(shown.site):
        columns = [(site, source, metric) for metric in metrics for source in sources]
        printed.add_row(site, *(f"{values[c]:.3g}" if c in values else "" for c in columns))
    to.print(printed)


def _cell(row: Any) -> str:
    return f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"
