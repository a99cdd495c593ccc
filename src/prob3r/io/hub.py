"""Folders of files on the Hugging Face hub: fetched into its cache, and put there.

`huggingface_hub` does the work and its settings hold: HF_HOME for the cache, HF_HUB_OFFLINE,
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

# A name that ends like a file of weights is a path, even if nothing is there.
_FILES = (".safetensors", ".pth", ".pt")


class HubId(NamedTuple):
    """A repository of the hub, as it stands in one revision.

    Attributes:
        repo: `owner/name`.
        revision: A branch, a tag or a commit; None is the main branch as it stands now.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_id(source: str | Path, revision: str | None = None) -> HubId | None:
    """Return what `owner/name` or `owner/name@revision` names; None for anything else.

    Args:
        source: What may be such a name; a `Path` never is.
        revision: Stands above the one in the name.
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
    """Return a folder with files of a repository, fetched unless the cache holds them.

    Nothing in it may be changed: it is the cache.

    Args:
        source: Where from.
        needed: Names of files that must be there.
        others: Patterns of files that are fetched if they are there.
        kind: What sort of repository it is.
        token: Instead of the one that is logged in with.

    Raises:
        Prob3rError: A needed file is not there, the repository or the revision is unknown or
            locked, the hub cannot be reached and the cache does not hold what is asked for, or
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
    """Put files of a folder into a repository, which is made if need be; return the commit's URL.

    Args:
        folder: Where they are.
        repo: `owner/name`.
        patterns: Which files.
        message: What the commit says.
        kind: What sort of repository it is.
        private: Whether a new repository is; None leaves it to the owner's settings.
        token: Instead of the one that is logged in with.

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
    """Give `huggingface_hub`, and say in one sentence what goes wrong with it."""
    try:
        import huggingface_hub  # an extra, which reading files on disk can do without
    except ImportError as error:
        raise Prob3rError(
            f"'{source}' is nothing on this disk, and the hub can be reached with the package "
            "huggingface_hub only; run `pip install 'prob3r[hub]'`."
        ) from error
    try:
        yield huggingface_hub
    except Exception as error:  # what it raises without a network changes with its version
        raise Prob3rError(_sentence(error, source)) from error


def _sentence(error: BaseException, source: HubId) -> str:
    """Return what an error of `huggingface_hub` means to who asked for a repository."""
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
            return f"'{source}' is not whole in the hub's cache, and HF_HUB_OFFLINE is set."
        case errors.LocalEntryNotFoundError():
            return f"'{source}' is not whole in the hub's cache, and the hub cannot be reached."
        case errors.HfHubHTTPError(response=response):
            return (
                f"The hub answered {response.status_code} when asked for '{source}'; log in with "
                "`hf auth login` if that is 401 or 403, else try again later."
            )
    reason = " ".join(str(error).split()) or "no reason given"
    return f"The hub could not be used for '{source}': {type(error).__name__}, {reason}"
