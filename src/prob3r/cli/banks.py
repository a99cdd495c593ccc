"""The probes that commands read with: shipped, at a path, from the cache, or fitted at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from prob3r.cli.app import errors
from prob3r.errors import Prob3rError

if TYPE_CHECKING:
    from prob3r.models import Model
    from prob3r.probes import Asked, SiteReader

AUTO, NONE, LOGIT = "auto", "none", "logit"

Probes = Annotated[
    str,
    typer.Option(
        help="auto (the shipped MLP probes of a shipped model, else ridge), ridge or features "
        "(fitted at once and kept), logit, none, a bank's path or hub id, or what is shipped: mlp, "
        "linear, tuned."
    ),
]
FitTo = Annotated[
    str | None,
    typer.Option(
        help="What probes are fitted to: truth, or own for the model's own output; the truth where "
        "it is known."
    ),
]
FitOn = Annotated[
    str | None,
    typer.Option(help="What probes are fitted on: rooms:train, a data set, or photographs."),
]


def asked(
    fit_to: str | None, fit_on: str | None, precision: str = "auto", scenes: int | None = None
) -> "Asked":
    """Return which banks are wanted; raise Prob3rError where --fit-to is nobody."""
    from prob3r.probes import Asked
    from prob3r.probes.targets import WHOSE

    known = {name: name for name in WHOSE}
    if fit_to is not None and fit_to not in known:
        raise Prob3rError(f"--fit-to is '{fit_to}'; it must be {' or '.join(WHOSE)}.")
    found = None if fit_to is None else known[fit_to]
    return Asked(found, fit_on, scenes, precision=precision)


def maybe_reader(
    network: "Model", model: str, probes: str, which: "Asked | None" = None
) -> "SiteReader | None":
    """Return the probes that were asked for, fitted if need be; None for `none`."""
    return None if probes == NONE else reader_of(network, model, probes, which)


def reader_of(
    network: "Model", model: str, probes: str, which: "Asked | None" = None
) -> "SiteReader":
    """Return the probes that were asked for, on the model's device, fitted if need be.

    Args:
        network: The model.
        model: Its name.
        probes: A kind, a path or a hub id.
        which: What they are to be fitted to and on, if they are fitted.

    Raises:
        Prob3rError: There are no such probes, or they cannot be fitted.
    """
    from prob3r.probes import Asked, Lens, load_probes, provide, shipped_probes
    from prob3r.probes.provide import FITTED
    from prob3r.probes.reader import KINDS

    which = which or Asked()
    device = next(network.parameters()).device
    if probes == LOGIT:
        return Lens.of(network)
    if Path(probes).suffix or "/" in probes:
        return load_probes(probes).to(device)
    if probes == AUTO:
        wanted = which.whose is not None or which.data is not None
        probes = "mlp" if not wanted and shipped_probes(model, "mlp") else "ridge"
    if probes in KINDS and shipped_probes(model, probes):
        return load_probes(model, probes).to(device)
    if probes in FITTED:
        with shown() as show:
            return provide(network, [probes], which, Path(model).name, show)[probes]
    if probes in KINDS:
        raise Prob3rError(
            f"No '{probes}' probes are shipped for '{model}'; give the path of a bank, or ridge, "
            "which is fitted at once."
        )
    known = ", ".join(dict.fromkeys([AUTO, *FITTED, LOGIT, *KINDS]))
    raise Prob3rError(f"There are no '{probes}' probes; give {known}, a bank's path or a hub id.")


@contextmanager
def shown() -> Iterator["Bar"]:
    """Give what shows how far fitting is, and the time that is left."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    hidden = not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
        yield Bar(progress)


class Bar:
    """Shows what is being fitted: a line about what it takes, then a bar."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def announce(self, line: str) -> None:
        """Print what will be done, and what it takes."""
        errors.print(Text(line), soft_wrap=True)

    def progress(self, what: str, share: float) -> None:
        """Move the bar of what is being done."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=1.0)
        self._progress.update(self._tasks[what], completed=share)
