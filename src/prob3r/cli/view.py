"""`prob3r view`."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM, default_int_handler, signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    PrecisionName,
    app,
    console,
    errors,
    in_precision,
    progress,
)
from prob3r.cli.banks import AUTO, LOGIT, NONE, FitOn, FitTo, Probes, asked, reader_of
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.probes import Asked
    from prob3r.viewer import ProbedModel
    from prob3r.viewer.sources import ViewsSource


@app.command()
def view(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...",
            help="Two or more photographs of one scene, view 1 first; or one folder with a "
            "pair.json.",
        ),
    ] = None,
    room: Annotated[
        int | None,
        typer.Option(
            min=0, help="Show a room of the test split, with truth, instead of photographs."
        ),
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Number of views of the room.")] = 2,
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = AUTO,
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=PROBES",
            help="Another model and its probes to compare with; may be repeated.",
        ),
    ] = None,
    strangers: Annotated[
        Path | None,
        typer.Option(help="A calibration of strangers; the default is the shipped one, if any."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Another host name that browsers may use for this server; may be repeated."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes any free port.")
    ] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Whether to open a browser.")
    ] = True,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Explore a model on two or more photographs, live in the browser."""
    try:
        from prob3r.viewer import Viewer
    except ModuleNotFoundError as error:
        if error.name != "viser":
            raise
        raise Prob3rError(
            "The viewer needs viser; install it with pip install 'prob3r[viewer]'."
        ) from error
    from prob3r.runs.precision import running_precision
    from prob3r.viewer.server import check_free, is_local

    source, which = _source(images or [], room, views), asked(fit_to, fit_on, precision)
    signal(SIGTERM, default_int_handler)  # SIGTERM ends it like Ctrl-C
    check_free(host, port)  # before the model is loaded, because loading takes long
    running = ExitStack()

    def read(name: str, kind: str, which: "Asked | None" = None) -> "ProbedModel":
        probed = _probed(name, kind, device, which, len(images or ()) or views)
        running.enter_context(in_precision(precision, probed.model))
        return probed

    probed = _with_strangers(read(model, probes, which), strangers)
    others = _others(probed, compare or [], read)
    with progress() as report:
        report("Running the model", 0.2)
        viewer = Viewer(probed, source, others, host=host, port=port, names=name or [])
    try:
        if not is_local(host):
            console.print(
                f"Listening on {host}: everybody who reaches this machine can use the viewer.",
                style="yellow",
            )
        what = f"{model} runs in {running_precision(probed.model)}."
        console.print(
            Text(f"{what} Open {viewer.url}, and press Ctrl-C here to end."), soft_wrap=True
        )
        if browser:
            viewer.open_browser()
        viewer.wait()
    except KeyboardInterrupt:
        errors.print("Ended.")
    finally:
        viewer.stop()
        running.close()


def _source(images: list[Path], room: int | None, views: int = 2) -> "ViewsSource":
    """Return the requested scene; the bundled street by default."""
    from prob3r.scenes.folder import bundled
    from prob3r.viewer.sources import Folder, PhotographFiles, Room

    if room is not None and not images:
        return Room(room, views)
    if room is None and not images:
        return Folder(bundled("leuven"))
    if room is None and len(images) > 1:
        return PhotographFiles(tuple(images))
    if room is None and images[0].is_dir():
        return Folder(images[0])
    given = f"{images[0]} alone is no scene; " if room is None else ""
    raise Prob3rError(
        f"{given}view needs two photographs or more, one folder with a pair.json, or --room with "
        "a number."
    )


def _probed(
    model: str, probes: str, device: str, which: "Asked | None" = None, views: int = 2
) -> "ProbedModel":
    """Return a model with probes; for `none`, with the lens of its linear head if it has one."""
    from prob3r.models import load
    from prob3r.viewer import ProbedModel
    from prob3r.viewer.experiment import check_views

    network = load(model, device)
    check_views(network, views)  # before probes are fitted, because fitting takes long
    if probes != NONE:
        bank = reader_of(network, model, probes, which)
        return ProbedModel(model, network, bank, bank.kind if probes == AUTO else probes)
    try:
        lens = reader_of(network, model, LOGIT)
    except Prob3rError:  # then the model's own heads are used, if it has any that can be
        return ProbedModel(model, network, None, probes)
    return ProbedModel(model, network, lens, lens.kind)


def _with_strangers(probed: "ProbedModel", strangers: Path | None) -> "ProbedModel":
    """Return a model with its calibration of strangers, if there is one."""
    from dataclasses import replace

    from prob3r.reliability.strangers import StrangerCalibration

    if strangers is None:
        return replace(probed, strangers=StrangerCalibration.shipped(probed.name, probed.model))
    return replace(probed, strangers=StrangerCalibration.read(strangers))


def _others(
    probed: "ProbedModel", asked: list[str], read: Callable[[str, str], "ProbedModel"]
) -> dict[str, Callable[[], "ProbedModel"]]:
    """Return the models to compare with, by label: the shipped ones and those of --compare."""
    from functools import cache, partial

    from prob3r.models import shipped
    from prob3r.probes import shipped_probes

    choices = [
        (name, kind)
        for name in shipped()
        for kind in ("mlp", "linear", "tuned")
        if shipped_probes(name, kind) and (name, kind) != (probed.name, probed.probes)
    ]
    for entry in asked:
        name, found, probes = entry.rpartition("=")
        if not found:
            raise Prob3rError(f"--compare is '{entry}'; write it as MODEL=PROBES.")
        choices.append((name, probes))
    return {
        f"{name}, {probes} probes": cache(partial(read, name, probes)) for name, probes in choices
    }
