"""Download one commit of a Hugging Face Hub repository into a local directory; offline, the cached copy is used.

In: a repository, a revision and file patterns. Out: the snapshot directory, named after its commit. Libraries on top of
the hub's client retry a failed lookup for half a minute; `fetch` fails at once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal


def fetch(repository: str, kind: Literal["dataset", "model"], revision: str | None, patterns: list[str]) -> Path:
    """Return the directory that holds the files of one commit; its name is the commit's hash.

    Args:
        repository: Such as "MERA-evaluation/ruTXTAgroBench".
        kind: What the repository holds.
        revision: Commit, tag or branch (None: the main branch).
        patterns: Wildcards of the files to download.

    Raises:
        ConnectionError: The files cannot be obtained; the message is the reason.
    """
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, HTTPError, errors.RevisionResolutionError, errors.XetDownloadError) as error:
        raise ConnectionError(_reason(error)) from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return "its terms are not accepted for this token"
        case errors.RepositoryNotFoundError():
            return "the hub has no such repository, or this token may not see it"
        case errors.RevisionNotFoundError() | errors.RevisionResolutionError():
            return "the repository has no such revision"
        case errors.LocalEntryNotFoundError() if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set and the cache holds no copy"
        case errors.LocalEntryNotFoundError():
            return "the hub cannot be reached and the cache holds no copy"
        case _:
            return f"the hub's files cannot be had ({' '.join(str(error).split())[:160] or 'no reason is given'})"
