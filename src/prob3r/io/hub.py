"""Folders of files on the Hugging Face hub: download to the hub's cache, and upload.

This uses `huggingface_hub` and its settings: HF_HOME for the cache, HF_HUB_OFFLINE,
HF_ENDPOINT, and the token of `hf auth login` or HF_TOKEN.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

from prob3r.errors import Prob3rError

Kind = Literal["model", "dataset"]

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(\S+))?", re.ASCII)

# A name with the suffix of a weights file is a path, even if there is no such file.
_FILES = (".safetensors", ".pth", ".pt")


class HubId(NamedTuple):
    """A repository of the hub, at one revision.

    Attributes:
        repo: `owner/name`.
        revision: A branch, a tag or a commit; None is the current main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_id(source: str | Path, revision: str | None = None) -> HubId | None:
    """Parse `owner/name` or `owner/name@revision`; return None for anything else.

    Args:
        source: The text to parse; a `Path` always gives None.
        revision: Replaces the revision in the name.
    """
    match = _ID.fullmatch(source) if isinstance(source, str) else None
    if match is None or match[1].endswith(_FILES):
        return None
    return HubId(match[1], revision or match[2])


def download(
    source: HubId,
    needed: Sequence[str] = (),
    others: Sequence[str] = (),
    *,
    kind: Kind = "model",
    token: str | None = None,
) -> Path:
    """Return a folder with files of a repository; download the files that the cache lacks.

    The folder is in the hub's cache: do not change its files.

    Args:
        source: The repository.
        needed: Names of files that must be in the repository.
        others: Shell-style patterns of optional files.
        kind: The type of the repository.
        token: An access token; by default the one that was stored at login.

    Raises:
        Prob3rError: A needed file is missing, the repository or the revision is unknown or
            not accessible, the hub cannot be reached and the cache lacks a file, or
            `huggingface_hub` is not installed.
    """
    with _library(source) as hub:
        folder = Path(
            hub.snapshot_download(
                source.repo,
                repo_type=kind,
                revision=source.revision,
                allow_patterns=[*needed, *others],
                token=token,
                library_name="prob3r",
            )
        )
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise Prob3rError(f"'{source}' on the hub has no {missing[0]}.")
    return folder


def upload(
    folder: Path,
    repo: str,
    patterns: Sequence[str],
    *,
    message: str,
    kind: Kind = "model",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload files of a folder; create the repository if needed; return the commit's URL.

    Args:
        folder: The folder that holds the files.
        repo: `owner/name`.
        patterns: Shell-style patterns of the files to upload.
        message: The commit message.
        kind: The type of the repository.
        private: Whether a new repository is private; None takes the default of the owner.
        token: An access token; by default the one that was stored at login.

    Raises:
        Prob3rError: The name is not `owner/name`, the hub refuses or cannot be reached, or
            `huggingface_hub` is not installed.
    """
    target = hub_id(repo)
    if target is None or target.revision is not None:
        raise Prob3rError(f"repo_id is '{repo}'; it must be 'owner/name'.")
    with _library(target) as hub:
        api = hub.HfApi(token=token, library_name="prob3r")
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type=kind,
            commit_message=message,
            allow_patterns=list(patterns),
        )
    return str(commit.commit_url)


@contextmanager
def _library(source: HubId) -> Iterator[ModuleType]:
    """Give the module `huggingface_hub`; raise its errors as Prob3rError with one sentence."""
    try:
        import huggingface_hub  # an optional dependency; files on disk do not need it
    except ImportError as error:
        raise Prob3rError(
            f"'{source}' is not a file on this disk, and the hub needs the package "
            "huggingface_hub; run `pip install 'prob3r[hub]'`."
        ) from error
    try:
        yield huggingface_hub
    except Exception as error:  # without a network, the error type depends on its version
        raise Prob3rError(_sentence(error, source)) from error


def _sentence(error: BaseException, source: HubId) -> str:
    """Explain an error of `huggingface_hub` in one sentence."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return (
                f"'{source.repo}' is gated; ask for access on its page on the hub, then log in "
                "with `hf auth login`."
            )
        case errors.RepositoryNotFoundError():
            return (
                f"There is no '{source.repo}' on the hub, or it is private; check the name, or "
                "log in with `hf auth login`."
            )
        case errors.RevisionNotFoundError():
            return f"'{source.repo}' on the hub has no revision '{source.revision}'."
        case errors.LocalEntryNotFoundError(__cause__=errors.HfHubHTTPError() as answer):
            return _sentence(answer, source)
        case errors.LocalEntryNotFoundError(__cause__=errors.OfflineModeIsEnabled()):
            return f"'{source}' is not complete in the hub's cache, and HF_HUB_OFFLINE is set."
        case errors.LocalEntryNotFoundError():
            return f"'{source}' is not complete in the hub's cache, and the hub cannot be reached."
        case errors.HfHubHTTPError(response=response):
            return (
                f"The hub answered {response.status_code} when asked for '{source}'; log in with "
                "`hf auth login` if that is 401 or 403, else try again later."
            )
    reason = " ".join(str(error).split()) or "no reason given"
    return f"The hub could not be used for '{source}': {type(error).__name__}, {reason}"
