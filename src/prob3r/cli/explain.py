"""`prob3r explain` and `prob3r demo`."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from prob3r.cli.app import (
    DEFAULT_MODEL,
    Device,
    ModelName,
    Out,
    Probes,
    app,
    console,
    pair_of,
    progress,
    reader_of,
)

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.scenes import Pair

DEMO_ROOM = 2  # indoors, with several objects in both views


@app.command()
def explain(
    image1: Annotated[Path, typer.Argument(help="View 1, the reference, or a pair's folder.")],
    image2: Annotated[Path | None, typer.Argument(help="View 2.")] = None,
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = "mlp",
    out: Out = Path("prob3r.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also the numbers.")] = None,
    ply: Annotated[Path | None, typer.Option(help="Also both pointmaps.")] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also switch off every head in turn.")
    ] = False,
    reliability: Annotated[
        Path | None, typer.Option(help="A calibration, instead of the shipped one if any.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Explain a model's reconstruction of two photographs, in one HTML page."""
    from prob3r.models import load

    network = load(model, device)
    pair = pair_of(image1, image2, network)
    _explain(network, pair, model, probes, out, json_file, ply, heads, reliability)


@app.command()
def demo(
    model: ModelName = DEFAULT_MODEL,
    probes: Probes = "mlp",
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("out"),
) -> None:
    """Explain the bundled photographs, and a procedural room whose truth is known."""
    from prob3r.io.files import make_folder
    from prob3r.models import load
    from prob3r.rooms import Rooms
    from prob3r.scenes import Pair

    network = load(model)
    books = Path(str(files("prob3r.scenes") / "pairs" / "books"))
    make_folder(out)
    room = Rooms("test", size=network.config.image_size, compile=False)[DEMO_ROOM]
    _explain(network, room, model, probes, out / "room.html")
    _explain(network, Pair.from_folder(books, network), model, probes, out / "books.html")


def _explain(
    network: "Model",
    pair: "Pair",
    model: str,
    probes: str,
    out: Path,
    json_file: Path | None = None,
    ply: Path | None = None,
    heads: bool = False,
    reliability: Path | None = None,
) -> None:
    """Explain one pair and write what was asked for, the page last."""
    from prob3r.reliability.calibration import Calibration
    from prob3r.report import explain, write_json, write_page, write_ply

    bank = reader_of(network, model, probes)
    if reliability is None:
        calibration = Calibration.shipped(model, network, bank)
    else:
        calibration = Calibration.read(reliability)
    with progress() as report:
        explanation = explain(
            network,
            pair,
            bank,
            model_name=model,
            head_effects=heads,
            calibration=calibration,
            progress=report,
        )
    for write, path in ((write_json, json_file), (write_ply, ply), (write_page, out)):
        if path is not None:
            write(explanation, path)
            console.print(Text(f"Wrote {path}"), soft_wrap=True)
