"""Files written whole or not at all, and values as JSON files can hold them."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

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
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder that only one may work in; a killed one leaves no trace.

    Raises:
        Prob3rError: Another process is in it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # no locks of this kind on Windows
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            try:
                flock(held, LOCK_EX | LOCK_NB)
            except BlockingIOError as error:
                raise Prob3rError(
                    f"Another process is at work in {folder}; wait until it ends, or give another "
                    "folder."
                ) from error
        yield
    finally:
        os.close(held)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, in the same folder; it takes its name when all went well.

    Raises:
        Prob3rError: The file cannot be written; whatever stood there before still does.
    """
    temporary = path.parent / f".{path.stem}.{os.getpid()}{path.suffix}"
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        if not _lives(left.name.removesuffix(path.suffix).rpartition(".")[2]):
            left.unlink(missing_ok=True)  # of a process that was killed while it wrote
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


def _lives(process: str) -> bool:
    """Return whether a process of this number may be at work; what is no number stays alone."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (ValueError, PermissionError):
        return True
    return True


def printable(text: str) -> str:
    """Return a file's name as Unicode; bytes that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(value: Any) -> Any:
    """Return a value with None for every number that is not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
