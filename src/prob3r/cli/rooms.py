"""`prob3r rooms`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from prob3r.cli.app import Out, app, console


@app.command()
def rooms(
    out: Out = Path("rooms.png"),
    split: Annotated[str, typer.Option(help="The split: train, validation or test.")] = "test",
    start: Annotated[int, typer.Option(min=0, help="Index of the first pair.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs.")] = 8,
    size: Annotated[int, typer.Option(min=8, help="Side of an image, in pixels.")] = 192,
    lookalikes: Annotated[
        bool, typer.Option(help="Rooms with two or three instances of one object.")
    ] = False,
    photographs: Annotated[
        Path | None, typer.Option(help="A folder of photographs to use as textures.")
    ] = None,
) -> None:
    """Draw a contact sheet of procedural pairs: images and depths of both views."""
    from prob3r.io.files import writing_to
    from prob3r.rooms import Rooms, contact_sheet

    source = Rooms(
        split, (size, size), lookalikes=lookalikes, photographs=photographs, compile=False
    )
    sheet = contact_sheet(source.batch(range(start, start + count)))
    with writing_to(out) as path:
        sheet.save(path, format="PNG")
    console.print(Text(f"Wrote {out}"), soft_wrap=True)
