"""`prob3r rooms`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from prob3r.cli.app import Out, app, console


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
    from prob3r.io.files import writing_to
    from prob3r.rooms import Rooms, contact_sheet

    source = Rooms(
        split, (size, size), lookalikes=lookalikes, photographs=photographs, compile=False
    )
    sheet = contact_sheet(source.batch(range(start, start + count)))
    with writing_to(out) as path:
        sheet.save(path, format="PNG")
    console.print(Text(f"Wrote {out}"), soft_wrap=True)
