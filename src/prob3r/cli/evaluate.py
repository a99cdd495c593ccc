"""`prob3r evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from prob3r.cli.app import DEFAULT_MODEL, Device, Model, app, bank_of, console, progress, wide

if TYPE_CHECKING:
    import pandas as pd


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
    bank = bank_of(model, probes).to(device) if probes else None
    if bank:
        check_backbone(bank, network)
    with progress() as report:
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


def print_evaluation(to: Console, table: "pd.DataFrame", title: str) -> None:
    """Print an evaluation: strata and metrics by source, and sites by metric if it has any."""
    from prob3r.studies.evaluation import EASY, HARD, HEAD

    to = wide(to)
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
