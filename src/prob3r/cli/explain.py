"""`prob3r explain` and `prob3r demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Out,
    PrecisionName,
    Size,
    app,
    console,
    framing_of,
    in_precision,
    progress,
    views_of,
)
from prob3r.cli.banks import AUTO, FitOn, FitTo, Probes, asked, maybe_reader

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.probes import SiteReader
    from prob3r.scenes import Views

DEMO_ROOM = 2  # indoors, with several objects in both views


@app.command()
def explain(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Photographs of one scene, view 1 first; a folder of photographs, in the order of "
            "their names; or the folder of a pair."
        ),
    ],
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = AUTO,
    fit_to: FitTo = None,
    fit_on: FitOn = None,
    out: Out = Path("prob3r.html"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers to this file.")
    ] = None,
    ply: Annotated[
        Path | None, typer.Option(help="Also write the pointmaps to this PLY file.")
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also measure the effect of switching off each head.")
    ] = False,
    reliability: Annotated[
        Path | None,
        typer.Option(help="A calibration of reliability; the default is the shipped one, if any."),
    ] = None,
    strangers: Annotated[
        Path | None,
        typer.Option(help="A calibration of strangers; the default is the shipped one, if any."),
    ] = None,
    size: Size = None,
    device: Device = "cpu",
    precision: PrecisionName = "auto",
) -> None:
    """Explain a model's reconstruction of two or more photographs, in one HTML page."""
    from prob3r.models import load

    images, network = _photographs(images), load(model, device)
    views, which = views_of(images, network, size), asked(fit_to, fit_on, precision)
    bank = maybe_reader(network, model, probes, which)
    with in_precision(precision, network):
        _explain(
            network,
            views,
            bank,
            model,
            out,
            json_file,
            ply,
            heads,
            reliability,
            strangers,
            own_size=framing_of(network, size) == framing_of(network, None),
        )


@app.command()
def demo(
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = AUTO,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out"),
) -> None:
    """Explain three bundled pairs: a street, books (a harder pair), and a room with known truth."""
    from prob3r.io.files import make_folder
    from prob3r.models import load
    from prob3r.rooms import Rooms
    from prob3r.scenes import Pair
    from prob3r.scenes.folder import bundled

    network = load(model)
    make_folder(out)
    bank = maybe_reader(network, model, probes)
    room = Rooms("test", size=network.config.image_size, compile=False)[DEMO_ROOM]
    _explain(network, room, bank, model, out / "room.html")
    for page, name in (("books", "books"), ("street", "leuven")):
        pair = Pair.from_folder(bundled(name), network)
        _explain(network, pair, bank, model, out / f"{page}.html")


def _photographs(images: list[Path]) -> list[Path]:
    """Return the photographs; for a folder without a pair.json, the photographs in it."""
    from prob3r.scenes.album import photographs_in

    if len(images) != 1 or not images[0].is_dir() or (images[0] / "pair.json").exists():
        return images
    found = photographs_in(images[0]).files
    return list(found) if len(found) > 1 else images


def _explain(
    network: "Model",
    views: "Views",
    bank: "SiteReader | None",
    model: str,
    out: Path,
    json_file: Path | None = None,
    ply: Path | None = None,
    heads: bool = False,
    reliability: Path | None = None,
    strangers: Path | None = None,
    own_size: bool = True,
) -> None:
    """Explain one scene and write the requested files, the page last.

    Shipped calibrations are valid only at the model's own image size.
    """
    from prob3r.reliability.calibration import Calibration
    from prob3r.reliability.matchers import best_matcher
    from prob3r.reliability.strangers import StrangerCalibration
    from prob3r.report import explain, write_json, write_page, write_ply

    calibration = None
    if reliability is not None:
        calibration = Calibration.read(reliability)
    elif bank is not None and own_size:
        calibration = Calibration.shipped(model, network, bank)
    of_strangers = None
    if strangers is not None:
        of_strangers = StrangerCalibration.read(strangers)
    elif views.count > 2 and own_size:
        of_strangers = StrangerCalibration.shipped(model, network)
    matcher = best_matcher()
    if matcher is None:
        console.print(
            "There is no independent check, because no matcher is installed; install one with pip "
            "install 'prob3r\\[matching]'.",
            soft_wrap=True,
        )
    with progress() as report:
        explanation = explain(
            network,
            views,
            bank,
            model_name=model,
            head_effects=heads,
            calibration=calibration,
            matcher=matcher,
            strangers=of_strangers,
            progress=report,
        )
    for write, path in ((write_json, json_file), (write_ply, ply), (write_page, out)):
        if path is not None:
            write(explanation, path)
            console.print(Text(f"Wrote {path}"), soft_wrap=True)
