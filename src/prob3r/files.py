"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prob3r.errors import Prob3rError


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing.

    Raises:
        Prob3rError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Prob3rError(
            f"{path} cannot be made a folder ({error.strerror or error}); give one that you may "
            "write to."
        ) from error


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, in the same folder; it takes its name when all went well.

    Raises:
        Prob3rError: The file cannot be written; whatever stood there before still does.
    """
    temporary = path.parent / f".{path.stem}.{os.getpid()}{path.suffix}"
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise Prob3rError(
            f"{path} cannot be written ({error.strerror or error}); give a file in a folder that "
            "exists and that you may write to."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
