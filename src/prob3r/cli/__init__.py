"""The command line: each command is one call into the library."""

import logging
import sys
from io import TextIOWrapper

from rich.logging import RichHandler
from rich.text import Text

from prob3r.cli import (  # noqa: F401 - each adds its commands
    attribute,
    compare,
    data,
    dictionary,
    evaluate,
    explain,
    info,
    plan,
    probes,
    rooms,
    study,
    sweep,
    train,
    view,
)
from prob3r.cli.app import app, errors
from prob3r.errors import Prob3rError


def main() -> None:
    """Run the command line.

    An error that the user can correct is printed as one sentence, and the exit code is 1. After
    Ctrl-C the exit code is 130.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=errors)]
    )
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may not be valid UTF-8
    try:
        app()
    except Prob3rError as error:
        errors.print(Text(f"prob3r: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("prob3r: stopped.", style="red")
        sys.exit(130)
