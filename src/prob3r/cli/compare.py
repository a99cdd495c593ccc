"""`prob3r compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prob3r.cli.app import app, console, wide
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.studies.framework.results import Comparison


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Two or more results that --json wrote.")],
) -> None:
    """Show results of one protocol side by side; results of different protocols are an error."""
    from prob3r.studies.framework.results import compare as side_by_side

    if len(files) < 2:
        raise Prob3rError(f"There is one result, {files[0]}; give two or more to compare.")
    print_comparison(console, side_by_side(files), [file.name for file in files])


def print_comparison(to: Console, found: "Comparison", names: list[str]) -> None:
    """Print results side by side; the best value of a row is bold if it is known which is best."""
    printed = Table("", *names, title=found.title)
    for fact, cells in found.facts.items():
        printed.add_row(fact, *cells)
    printed.add_section()
    for (label, values), better in zip(found.rows, found.better, strict=True):
        best = {"larger": max, "smaller": min}.get(better)
        known = [value[0] for value in values if value is not None and value[0] == value[0]]
        chosen_best = best(known) if best and known else None
        shown = list[Text]()
        for value in values:
            text = "" if value is None else "{:.3g} [{:.3g}, {:.3g}]".format(*value)
            best_one = value is not None and value[0] == chosen_best
            shown.append(Text(text, style="bold" if best_one else ""))
        printed.add_row(label, *shown)
    wide(to).print(printed)
