"""`prob3r data check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import Out, app, console, progress
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.scenes.check import Survey

LONGER_SIDE = 320  # pixels, of the views on the sheet
SHOWN = 5  # faults of one kind that are printed

data = typer.Typer(help="Data sets on disk.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.callback()
def _group() -> None:
    """Keep `check` a subcommand; Typer merges a group of one command into that command."""


@data.command()
def check(
    name: Annotated[
        str,
        typer.Argument(help="The data set: LAYOUT:PATH, a folder of pairs, or a path."),
    ],
    out: Out = Path("check.png"),
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to read in full.")] = 128,
    frames: Annotated[
        int, typer.Option(min=1, help="How many frames to check for missing files.")
    ] = 20_000,
    rows: Annotated[int, typer.Option(min=1, help="How many pairs to draw.")] = 6,
    near: Annotated[
        float | None, typer.Option(help="The smallest plausible depth, in the data's unit.")
    ] = None,
    far: Annotated[
        float | None, typer.Option(help="The largest plausible depth, in the data's unit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample of pairs and frames.")] = 0,
) -> None:
    """Check a data set: count it, list its faults, and draw a sheet that shows its conventions."""
    from prob3r.io.files import writing_to
    from prob3r.scenes import Framing
    from prob3r.scenes.check import draw_sheet, survey
    from prob3r.scenes.readers import Reader
    from prob3r.scenes.source import open_pairs

    source = open_pairs(name, Framing(LONGER_SIDE, "long"), strict=False)
    usual = source.depth_range if isinstance(source, Reader) else (0.0, float("inf"))
    depth_range = usual[0] if near is None else near, usual[1] if far is None else far
    with progress() as report:
        found = survey(source, pairs, frames, depth_range=depth_range, seed=seed, report=report)
    sheet = draw_sheet(name, source, found, rows)
    with writing_to(out) as path:
        sheet.save(path, format="PNG")
    print_survey(console, name, found)
    console.print(Text(f"Wrote {out}"), soft_wrap=True)
    if not found.usable:
        raise Prob3rError(
            f"{name} cannot be used as it is: {found.faulty_frames} of {found.asked_frames} frames "
            f"and {found.faulty_pairs} of {found.asked} pairs have faults, and a run stops if more "
            "than 1% have faults."
        )


def print_survey(to: Console, name: str, found: "Survey") -> None:
    """Print the counts of a data set, its faults, and a histogram of the overlap of its pairs."""
    table = Table("", "", title=name, show_header=False)
    if found.frames:
        table.add_row("scenes", str(found.scenes))
        looked = f"{found.asked_frames} checked, {found.faulty_frames} with faults"
        table.add_row("frames", f"{found.frames}, {looked}")
    read = f"{found.asked} read in full, {found.faulty_pairs} with faults"
    table.add_row("pairs", f"{found.pairs}, {read}")
    if found.checks:
        nearest = min(check.depth[0] for check in found.checks)
        farthest = max(check.depth[2] for check in found.checks)
        table.add_row("depth", f"{nearest:.3g} to {farthest:.3g}")
        table.add_row("rotation", f"{found.median('rotation'):.0f}° (median)")
        table.add_row("baseline", f"{found.median('baseline'):.2g} of the depth (median)")
        table.add_row("agreement of colours", f"{found.median('agreement'):.2f} (median)")
        counts = found.histogram()
        for number, count in enumerate(counts):
            label = f"overlap {number / 10:.1f} to {(number + 1) / 10:.1f}"
            table.add_row(label, f"{count:4d} {'█' * round(30 * count / max(counts))}")
    to.print(table)
    if found.doubt:
        to.print(Text(found.doubt, style="red"), soft_wrap=True)
    for kind, sentences in found.faults.items():
        to.print(Text(f"{kind}: {len(sentences)}", style="red"))
        for sentence in sentences[:SHOWN]:
            to.print(Text(f"  {sentence}"), soft_wrap=True)
        if len(sentences) > SHOWN:
            to.print(Text(f"  and {len(sentences) - SHOWN} more"))
