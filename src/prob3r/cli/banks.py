"""The probes of the commands: shipped, at a path, from the cache, or fitted when needed."""

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
        help="The probes to use. auto: the shipped MLP probes of the model, or ridge if there are "
        "none. ridge, features: fitted when needed, and kept. logit: the model's head. none: "
        "no probes. mlp, linear, tuned: shipped probes of that kind. Or the path or hub id of a "
        "bank."
    ),
]
FitTo = Annotated[
    str | None,
    typer.Option(
        help="The target that probes are fitted to: truth, or own for the model's own output. The "
        "default is the truth if the data has it."
    ),
]
FitOn = Annotated[
    str | None,
    typer.Option(
        help="The data that probes are fitted on: rooms:train, a data set, or photographs."
    ),
]


def asked(
    fit_to: str | None, fit_on: str | None, precision: str = "auto", scenes: int | None = None
) -> "Asked":
    """Return the settings of the banks to fit; raise Prob3rError if --fit-to is unknown."""
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
    """Return the requested probes, fitted if necessary; None for `none`."""
    return None if probes == NONE else reader_of(network, model, probes, which)


def reader_of(
    network: "Model", model: str, probes: str, which: "Asked | None" = None
) -> "SiteReader":
    """Return the requested probes, on the model's device, fitted if necessary.

    Args:
        network: The model.
        model: The model's name.
        probes: A kind of probes, a path or a hub id.
        which: The target and the data of the fit, for probes that are fitted.

    Raises:
        Prob3rError: There are no such probes, or they cannot be fitted.
    """
    from prob3r.probes import Asked, Lens, load_probes, provide, shipped_probes
    from prob3r.probes.files import KINDS
    from prob3r.probes.provide import FITTED

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
            "which is fitted when it is needed."
        )
    known = ", ".join(dict.fromkeys([AUTO, *FITTED, LOGIT, *KINDS]))
    raise Prob3rError(f"There are no '{probes}' probes; give {known}, a bank's path or a hub id.")


@contextmanager
def shown() -> Iterator["Bar"]:
    """Yield a bar that shows the progress of fitting, and the time that is left."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    hidden = not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
        yield Bar(progress)


class Bar:
    """Show the progress of a fit: first a line that announces it, then a bar."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def announce(self, line: str) -> None:
        """Print the line that says what will be done, and how long it takes."""
        errors.print(Text(line), soft_wrap=True)

    def progress(self, what: str, share: float) -> None:
        """Move the bar of a task to the share of it that is done, 0 to 1."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=1.0)
        self._progress.update(self._tasks[what], completed=share)
