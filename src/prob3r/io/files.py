"""Atomic writing of files, folders, locks, and values that fit JSON."""

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from prob3r.errors import Prob3rError


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents; nothing changes if it exists.

    Raises:
        Prob3rError: The folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Prob3rError(
            f"{path} cannot be created as a folder ({error.strerror or error}); give a folder that "
            "you may write to."
        ) from error


def user_cache(name: str) -> Path:
    """Return the folder for one kind of file in the user's cache; it may not exist yet.

    The cache is `$XDG_CACHE_HOME/prob3r`, or `~/.cache/prob3r` if the variable is not set.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "prob3r" / name


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock also ends if the process is killed.

    Nothing is locked on Windows and on file systems without locks.

    Raises:
        Prob3rError: Another process holds the lock.
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
                    f"Another process is using {folder}; wait until it ends, or give another "
                    "folder."
                ) from error
        yield
    finally:
        os.close(held)


@contextmanager
def writing_to(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success, rename it to `path`.

    Raises:
        Prob3rError: The file cannot be written. An older file of this name is then unchanged.
    """
    temporary = path.parent / f".{path.stem}.{os.getpid()}{path.suffix}"
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        if not _lives(left.name.removesuffix(path.suffix).rpartition(".")[2]):
            left.unlink(missing_ok=True)  # left by a process that was killed while it wrote
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
    """Return whether a process with this id may be running; True if the text is not an id."""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (ValueError, PermissionError):
        return True
    return True


def printable(text: str) -> str:
    """Return a file's name as Unicode; bytes that are not UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_json(value: Any) -> Any:
    """Return a value that fits JSON: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return None
    return value


def digest_of(value: Any) -> str:
    """Return a hash of a value that fits JSON, as 16 hexadecimal digits.

    The hash does not depend on the order of the keys of a dictionary.
    """
    text = json.dumps(to_json(value), separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
