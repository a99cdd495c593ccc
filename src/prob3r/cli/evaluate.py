"""`prob3r evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
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
    check_views,
    chosen,
    console,
    in_precision,
    progress,
    wide,
)
from prob3r.cli.banks import FitOn, FitTo, asked, maybe_reader
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    import pandas as pd

    from prob3r.studies.protocols import Outcome

PAIRS, SCENES = 512, 128
ROOMS = "rooms:test"

SHORT = {
    "pointmap_error": "points",
    "rotation_error": "rotation",
    "translation_error": "translation",
    "shape_error": "shape",
}
"""The metrics by which several kinds of probes are compared, and their names in the table head."""


@app.command()
def evaluate(
    model: ModelName = DEFAULT_MODEL,
    data: Annotated[
        str,
        typer.Option(
            help="The data: rooms:test, a folder of pairs, or LAYOUT:PATH. With --protocol: the "
            "folder of its data set."
        ),
    ] = ROOMS,
    protocol: Annotated[
        str | None, typer.Option(help="A public benchmark by name, such as re10k-poses.")
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            help="The published list of frames of the protocol; without it the list is rebuilt."
        ),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of pairs, a random sample; 512 by default. With --views: number of "
            "scenes; 128 by default. With --protocol: number of scenes; all by default.",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(min=2, help="Measure scenes of this many views, by cameras and by points."),
    ] = None,
    overlap: Overlap = None,
    rotation: Rotation = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure every site with these probes: auto, ridge, …, as for explain; may "
            "be repeated. By default, or with none, only the output is measured."
        ),
    ] = None,
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows of the table to this file.")
    ] = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Measure a model on pairs or scenes, together with references, or on a public benchmark."""
    from prob3r.models import load
    from prob3r.studies import evaluate as measure
    from prob3r.studies.evaluation import about_pairs, write_rows

    of_pairs = {"--overlap": overlap, "--rotation": rotation}
    of_probes = {"--probes": probes, "--fit-to": fit_to, "--fit-on": fit_on}
    if protocol is not None:
        _refuse(f"the protocol {protocol}", {**of_pairs, **of_probes, "--views": views})
        _protocol(model, protocol, data, frames, pairs, json_file, device, precision)
        return
    _refuse("data without a --protocol", {"--frames": frames})
    if views is not None:
        _refuse("scenes of --views", {**of_pairs, **of_probes})
        _scenes(model, data, views, pairs or SCENES, json_file, device, precision)
        return
    pairs = pairs or PAIRS
    network = load(model, device)
    which = asked(fit_to, fit_on, precision)
    asked_for = (maybe_reader(network, model, kind, which) for kind in probes or ())
    readers = [reader for reader in asked_for if reader is not None]
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
        write_rows(table, json_file, about_pairs(network, model, data, table))


def _refuse(what: str, given: Mapping[str, object]) -> None:
    """Raise Prob3rError if an option is given that has no meaning here."""
    for option, value in given.items():
        if value is not None:
            raise Prob3rError(f"{option} has no meaning for {what}; leave it out.")


def _scenes(
    model: str,
    data: str,
    views: int,
    count: int,
    json_file: Path | None,
    device: str,
    precision: str,
) -> None:
    """Measure a model on scenes of several views, print the table and write the rows."""
    from prob3r.models import load
    from prob3r.scenes.several import open_views
    from prob3r.studies.evaluation import write_rows
    from prob3r.studies.scene_evaluation import about_scenes, evaluate_scenes

    network = load(model, device)
    check_views(network, model, views)
    with progress() as report, in_precision(precision, network):
        table = evaluate_scenes(
            network,
            open_views(data, network, views, device),
            count,
            report=lambda done, total: report("Scenes", done / total),
        )
    sources = list(dict.fromkeys(table.source))
    printed = Table("metric", *sources, title=f"{model} on {data}, {views} views")
    printed.caption = (
        f"median over scenes, of an AUC the mean [95 % interval]; {table.attrs['sample']}; "
        "cameras by the camera head (stated) and by the pointmaps (points), over all pairs of views"
    )
    for metric, rows in table.groupby("metric", sort=False):
        cells = {row.source: _cell(row) for row in rows.itertuples()}
        printed.add_row(str(metric), *(cells.get(source, "") for source in sources))
    wide(console).print(printed)
    if json_file is not None:
        write_rows(table, json_file, about_scenes(network, model, data, views, table))


def _protocol(
    model: str,
    name: str,
    data: str,
    frames: Path | None,
    count: int | None,
    json_file: Path | None,
    device: str,
    precision: str,
) -> None:
    """Run a protocol, print its table and write the result."""
    from prob3r.models import load
    from prob3r.studies.framework.results import write_result
    from prob3r.studies.protocols import protocol_named, run

    protocol = protocol_named(name)
    if data == ROOMS:
        raise Prob3rError(f"{name} needs --data, the data set's folder: {protocol.layout}.")
    network = load(model, device)
    with progress() as report, in_precision(precision, network):
        outcome = run(
            protocol,
            network,
            Path(data),
            name=model,
            listed=frames,
            count=count,
            report=lambda done, total: report("Scenes", done / total),
        )
    print_outcome(console, outcome, f"{model} on {name}")
    if json_file is not None:
        write_result(outcome.content(), json_file)


def print_outcome(to: Console, outcome: "Outcome", title: str) -> None:
    """Print the scores of a model on a protocol, and how they were measured."""
    about, printed = outcome.about, Table("metric", "value", "better", "scenes", title=title)
    for row in outcome.table.itertuples():
        cells = row.metric, f"{_cell(row)} {row.unit}", row.better, row.scenes
        printed.add_row(*(str(cell) for cell in cells))
    wide(to).print(printed)
    same = {
        True: "the published frames",
        False: "not the published frames",
        None: "no published list is known to compare with",
    }
    frames = about["frames"]
    facts = {
        "frames": f"{about['protocol']['frames']}; here {frames['chosen']}, digest "
        f"{frames['digest']}: {same[frames['published']]}",
        "alignment": about["protocol"]["alignment"],
        "views": about["model"]["views"],
        "cameras": about["model"]["cameras"],
        "framing": about["model"]["framing"],
        "metrics checked against": about["checked"],
        "skipped": ", ".join(about["skipped"]),
    }
    for what, words in facts.items():
        if words:
            to.print(Text(f"{what}: {words}"), soft_wrap=True)


def print_evaluation(to: Console, table: "pd.DataFrame", title: str) -> None:
    """Print an evaluation: strata and metrics by source, and sites by metric if there are sites."""
    from prob3r.measures.strata import EASY, HARD
    from prob3r.studies.evaluation import HEAD

    to = wide(to)
    head, sites = table[table.site == HEAD], table[table.site != HEAD]
    sources = list(dict.fromkeys(head.source))
    printed = Table("stratum", "metric", "view", *sources, title=title)
    told = {name: words for name, words in table.attrs.items() if isinstance(words, str)}
    sample = "".join(f"{name}: {words}; " for name, words in told.items())
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
    # With several sources, the name of a metric stands once, over the first of its columns.
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
