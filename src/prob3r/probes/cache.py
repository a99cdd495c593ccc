"""The banks that were fitted on this machine, kept in the user's cache under the model they read.

    CACHE/prob3r/probes/FINGERPRINT/KIND-TARGET-WHOSE-DIGEST.safetensors

The digest identifies what the bank was fitted on. A control with random weights is kept under the
model that it is compared with. Files are written whole or not at all, so a process that is killed
leaves no broken file. If two processes fit the same bank, the file written last stays.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, user_cache
from prob3r.models import read_tensors
from prob3r.probes.reader import load_probes, save_probes
from prob3r.probes.ridge import Fit, RidgeBank
from prob3r.probes.scenes import ROOMS
from prob3r.probes.targets import POINTMAP, TRUTH


@dataclass(frozen=True)
class Kept:
    """A bank in the cache.

    Attributes:
        path: Its file.
        model: Fingerprint of the model that it was fitted for.
        kind: `ridge` or `features`, or for a control `random` or `encoder`.
        fit: What it was fitted on.
    """

    path: Path
    model: str
    kind: str
    fit: Fit

    @property
    def name(self) -> str:
        """A name that no other bank in the cache has."""
        return f"{self.model[:6]}-{self.path.stem}"

    def load(self) -> RidgeBank:
        """Return the bank; raise Prob3rError if the file is damaged."""
        bank = load_probes(self.path)
        assert isinstance(bank, RidgeBank)
        return bank

    def remove(self) -> None:
        """Delete the file, and the model's folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def keep(bank: RidgeBank, model: str) -> Path:
    """Put a bank into the cache and return its file.

    It replaces a bank of the same kind and target that was fitted on the same data.

    Args:
        bank: The bank.
        model: Fingerprint of the model that it was fitted for.

    Raises:
        Prob3rError: The cache cannot be written to.
    """
    assert bank.fit is not None
    path = (
        folder()
        / model
        / f"{bank.kind}-{bank.fit.target}-{bank.fit.whose}-{_digest(bank)}.safetensors"
    )
    make_folder(path.parent)
    save_probes(bank, path)
    return path


def kept(model: str | None = None) -> list[Kept]:
    """Return the banks in the cache, of all models or of one, newest first.

    Files that cannot be read are left out.
    """
    files = sorted(folder().glob(f"{model or '*'}/[!.]*-*-*.safetensors"), key=_age)
    return [found for file in files for found in _described(file)]


def find(
    model: str,
    kind: str,
    whose: str | None = None,
    data: str | None = None,
    target: str = POINTMAP.name,
    token: str = "",
) -> Kept | None:
    """Return the bank in the cache that meets a request, or None.

    If there are several, banks fitted on rooms are preferred, then banks fitted to the truth, then
    the newest bank.

    Args:
        model: Fingerprint of the model.
        kind: `ridge`, `features`, `random` or `encoder`.
        whose: `truth` or `own`. The default is either.
        data: What it was fitted on. The default is anything.
        target: Name of the target of its probes.
        token: The special token that its probes read, or "" if they read none.
    """
    found = [
        each
        for each in kept(model)
        if each.kind == kind
        and (each.fit.target, each.fit.token) == (target, token)
        and (whose is None or each.fit.whose == whose)
        and (data is None or each.fit.data == data)
    ]
    found.sort(key=lambda each: (each.fit.data != ROOMS, each.fit.whose != TRUTH))
    return found[0] if found else None


def folder() -> Path:
    """Return the folder of all banks."""
    return user_cache("probes")


def _digest(bank: RidgeBank) -> str:
    assert bank.fit is not None
    fit = bank.fit
    about: list[object] = [fit.data, fit.scenes, fit.views, fit.seed, fit.precision]
    about += [bank.features, bank.seed, *([bank.token] if bank.token else [])]
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=4).hexdigest()


def _age(file: Path) -> float:
    with suppress(OSError):  # another process may have removed it
        return -file.stat().st_mtime
    return 0.0


def _described(file: Path) -> Iterator[Kept]:
    with suppress(Prob3rError, KeyError, TypeError, ValueError):
        header = (read_tensors(file)[1] or {})["bank"]
        kind = file.name.partition("-")[0]
        yield Kept(file, file.parent.name, kind, Fit.from_dict(header["fit"]))
