"""Results of studies on the hub."""

import json
from pathlib import Path

from prob3r.errors import Prob3rError
from prob3r.io.hub import download, hub_id, upload
from prob3r.models import Model, fingerprint

# The parts of a table are left out, because only an unfinished study needs them.
_FILES = (
    "study.json",
    "findings.json",
    "findings.md",
    "table.parquet",
    "table.csv",
    ".png",
    ".pdf",
)
_PATTERNS = [f"*{name}" for name in _FILES]


def push_results(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str = "Upload results with prob3r",
    token: str | None = None,
) -> str:
    """Upload tables, findings and figures to the hub, and return the URL of the commit.

    Args:
        folder: The folder into which `conduct` wrote the results of one or more studies of one
            model.
        repo_id: `owner/name` of a data set repository; it is created if it does not exist.
        private: Whether a new repository is private; None uses the owner's settings.
        commit_message: The message of the commit.
        token: A token to use instead of the stored login.

    Raises:
        Prob3rError: The folder holds no results, or those of several models; the name is not
            `owner/name`; or the hub refuses or cannot be reached.
    """
    _backbone(Path(folder), str(folder))
    return upload(
        Path(folder),
        repo_id,
        _PATTERNS,
        message=commit_message,
        kind="dataset",
        private=private,
        token=token,
    )


def fetch_results(
    repo_id: str,
    model: Model | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Download results that `push_results` uploaded, and return their folder in the hub's cache.

    Args:
        repo_id: `owner/name` or `owner/name@revision`.
        model: The model of the results; None allows any model.
        revision: A branch, a tag or a commit of the repository.
        token: A token to use instead of the stored login.

    Raises:
        Prob3rError: The results cannot be fetched, are no results, or are of another model.
    """
    source = hub_id(repo_id, revision)
    if source is None:
        raise Prob3rError(f"repo_id is '{repo_id}'; it must be 'owner/name'.")
    folder = download(source, others=_PATTERNS, kind="dataset", token=token)
    backbone = _backbone(folder, str(source))
    if model is not None and backbone != (weights := fingerprint(model)):
        raise Prob3rError(
            f"The results in '{source}' are of the model {backbone}, but this one is {weights}; "
            "give the results of this model."
        )
    return folder


def _backbone(folder: Path, name: str) -> str:
    """Return the fingerprint of the one model whose results a folder holds."""
    try:
        found = {
            str(json.loads(path.read_text(encoding="utf-8"))["weights"])
            for path in folder.rglob("study.json")
        }
    except (ValueError, LookupError, TypeError) as error:
        raise Prob3rError(f"A study.json in '{name}' is damaged; run its study again.") from error
    if len(found) != 1:
        models = ", ".join(sorted(found)) or "none"
        raise Prob3rError(f"'{name}' must hold results of one model; it holds those of {models}.")
    return found.pop()
