"""Results of studies on the hub."""

import json
from pathlib import Path

from prob3r.errors import Prob3rError
from prob3r.io.hub import download, hub_id, upload
from prob3r.models import Model, fingerprint

# Without the parts of a table, which only a study that goes on needs.
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
    """Put tables, findings and figures on the hub and return the URL of the commit.

    Args:
        folder: Where `conduct` put the results of one study or of several, all of one model.
        repo_id: `owner/name` of a data set repository, which is made if need be.
        private: Whether a new repository is; None leaves it to the owner's settings.
        commit_message: What the commit says.
        token: Instead of the one that is logged in with.

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
    """Return the folder of results that `push_results` put on the hub; it is in the hub's cache.

    Args:
        repo_id: `owner/name` or `owner/name@revision`.
        model: What they must be results of; any, if it is left out.
        revision: A branch, a tag or a commit of the repository.
        token: Instead of the one that is logged in with.

    Raises:
        Prob3rError: They cannot be fetched, are no results, or are those of another model.
    """
    source = hub_id(repo_id, revision)
    if source is None:
        raise Prob3rError(f"repo_id is '{repo_id}'; it must be 'owner/name'.")
    folder = download(source, others=_PATTERNS, kind="dataset", token=token)
    backbone = _backbone(folder, str(source))
    if model is not None and backbone != (weights := fingerprint(model)):
        raise Prob3rError(
            f"The results in '{source}' are of the model {backbone}, and this one is {weights}; "
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
