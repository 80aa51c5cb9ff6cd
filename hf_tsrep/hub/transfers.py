"""Between a folder here and a repository on the Hub: what differs, a download that is verified, errors in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import one_line
from ..modeling.files_time_series import SUMS_FILE
from .folders import check_sums


class HubError(OSError):
    """The Hub did not give or take what was asked for; the message says why, and what to do."""


def hub_error(error: Exception, repo_id: str) -> HubError:
    """Say in one line what the Hub's client says in many.

    Args:
        error: What it raised.
        repo_id: The repository that was asked for.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not is_of_the_hub(error) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache" comes of what the Hub said
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        told = "is gated: ask for access on its page, and give a token that has it (HF_TOKEN, or `hf auth login`)."
    elif isinstance(error, RevisionNotFoundError):
        told = "has no such revision."
    elif status == 401 and not isinstance(error, RepositoryNotFoundError):
        told = "the Hub refuses the token (HF_TOKEN, or that of `hf auth login`): it is wrong or has expired."
    elif isinstance(error, RepositoryNotFoundError):
        told = "is not on the Hub, or is private: check the name, and give a token that may read it (HF_TOKEN)."
    elif status == 403:
        told = "the token may not write there: give one with the role to write, or another name."
    elif isinstance(error, OfflineModeIsEnabled):
        told = "HF_HUB_OFFLINE keeps this process from the Hub."
    elif isinstance(error, HfHubHTTPError):
        told = f"the Hub answers: {one_line(error)}"
    else:
        told = f"the connection to the Hub died ({one_line(error) or type(error).__name__}). Run the same again."
    return HubError(f"{repo_id}: {told}")


def is_of_the_hub(error: Exception) -> bool:
    """Whether an error is one of the Hub or of the way there, not of a folder here."""
    # Which client of HTTP huggingface_hub has, depends on its version: its errors are told by the name of the package.
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    is_of_client = type(error).__module__.startswith(("http", "requests", "urllib3"))
    return is_of_client or isinstance(error, (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError))


def differing_files(
    operations: Sequence[Any], repo_id: str, *, repo_type: str = "model", api: Any = None
) -> list[str]:
    """Return the names of files that a repository does not hold as they are here; all where there is no repository.

    Args:
        operations: `CommitOperationAdd` of every file.
        repo_id: The repository.
        repo_type: "model" or "dataset".
        api: An `HfApi`; None for one with the stored token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        tree = list((api or HfApi()).list_repo_tree(repo_id, recursive=True, repo_type=repo_type))
    except RepositoryNotFoundError:
        return [one.path_in_repo for one in operations]
    stored = {one.path: one for one in tree if hasattr(one, "blob_id")}
    return [one.path_in_repo for one in operations if not _is_stored(one, stored.get(one.path_in_repo))]


def _is_stored(operation: Any, stored: Any) -> bool:
    if stored is None or stored.size != operation.upload_info.size:
        return False
    if stored.lfs is not None:
        return bool(stored.lfs.sha256 == operation.upload_info.sha256.hex())
    with operation.as_file() as file:
        content = file.read()
    return bool(stored.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())  # as git names it


def pull(repo_id: str, output_dir: str | Path, *, revision: str | None = None, token: str | None = None) -> int | None:
    """Download a repository, and compare every file with the sums that were published with it.

    A download that broke off goes on with the files that are missing.

    Args:
        repo_id: "name/model".
        output_dir: Folder to write.
        revision: Branch, tag or commit.
        token: None for the stored one.

    Returns:
        Number of files that were verified; None where the repository has no SHA256SUMS.

    Raises:
        HubError: It is not there, gated, private, or the connection died.
        OSError: A file is not what was published.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_dir=output_dir, token=token))
    except Exception as error:
        if is_of_the_hub(error) or isinstance(error, FileNotFoundError):
            raise hub_error(error, repo_id) from error
        raise
    if not (folder / SUMS_FILE).is_file():
        return None
    found = check_sums(folder)
    if found.changed:
        told = "; ".join(f"{name} {how}" for name, how in found.changed.items())
        raise OSError(f"{repo_id}: {told}: it is not what was published. Remove it from {folder} and pull again.")
    return found.num_files
