"""Where the file of a probe bank is: shipped with a model, on the disk, or on the hub."""

from pathlib import Path

from prob3r.errors import Prob3rError
from prob3r.io.hub import download, hub_id
from prob3r.models import shipped, shipped_file

KINDS = ("mlp", "linear", "tuned", "random", "encoder")
"""What can be trained and shipped: two kinds of probes, the tuned lens, and two controls.

`random` is the MLP bank of a backbone of the same shape with random weights; `encoder` holds MLP
probes of the encoder's last block alone.
"""

WEIGHTS, CARD = "probes.safetensors", "probes.json"
"""The files in a folder or a repository with a bank. The second repeats the header of the first."""


def find_probes(
    source: str | Path,
    kind: str,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Return the file of a probe bank, or of a lens; download it if it is on the hub.

    The arguments are those of `prob3r.probes.load_probes`.

    Raises:
        Prob3rError: There is no such bank, or its file cannot be fetched.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    path = Path(source)
    if source not in shipped():
        if (repository := hub_id(source, revision)) and not path.exists():
            path = download(repository, [WEIGHTS], [CARD], token=token)
        if path.is_dir():
            path /= WEIGHTS
        if path.suffix:
            return path
    if not (file := shipped_probes(source, kind)):
        raise Prob3rError(
            f"No '{kind}' probes are shipped for '{source}'; give the path of a bank's "
            ".safetensors, or fit one at once with `prob3r probes fit`."
        )
    return file


def shipped_probes(model: str | Path, kind: str) -> Path | None:
    """Return the file of the probes of a kind that are shipped with a model, or None."""
    return shipped_file(model, f"probes-{kind}.safetensors")
