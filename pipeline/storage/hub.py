"""Download one commit of a Hugging Face Hub repository into a local directory; offline, the cached copy is used.

In: a repository, a revision and file patterns. Out: the snapshot directory, named after its commit; or how many bytes
of a model's weights are still to be downloaded. Libraries on top of the hub's client retry a failed lookup for half a
minute; this module fails at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

LOOKUP_S = 10.0
"""Seconds that the hub has to list a repository's files."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights of one commit of a hub model: their sizes in bytes by file name, and the cache's directory."""

    repository: str
    commit: str
    cache: str
    sizes: dict[str, int]

    def missing_bytes(self) -> int:
        """Return how much of them is still to be downloaded on this machine."""
        from huggingface_hub import try_to_load_from_cache

        missing = 0
        for name, size in self.sizes.items():
            cached = try_to_load_from_cache(self.repository, name, cache_dir=self.cache, revision=self.commit)
            missing += 0 if isinstance(cached, str) else size
        blobs = Path(self.cache, f"models--{self.repository.replace('/', '--')}", "blobs")
        begun = sum(each.stat().st_size for each in blobs.glob("*.incomplete"))  # a download that was interrupted
        return max(0, missing - begun)


def find_weights(repository: str, revision: str | None, cache: str | None) -> Weights | None:
    """Return the weights that vLLM downloads at least: safetensors files, or where there are none, those of PyTorch.

    Args:
        repository: A model of the hub.
        revision: Commit, tag or branch (None: the main branch).
        cache: The cache's directory, where it is not the default one.

    Returns:
        None where the hub does not answer: offline, or without access.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=LOOKUP_S)
    except (OSError, ValueError, HTTPError):
        return None
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    found = _of_kind(sizes, ".safetensors") or _of_kind(sizes, ".bin")
    where = cache or constants.HF_HUB_CACHE
    return Weights(repository=repository, commit=info.sha, cache=where, sizes=found) if info.sha and found else None


def _of_kind(sizes: dict[str, int], suffix: str) -> dict[str, int]:
    """Return the files with this suffix, without copies in another layout: in directories, and Mistral's own."""
    return {
        name: size
        for name, size in sizes.items()
        if PurePosixPath(name).suffix == suffix and "/" not in name and not name.startswith("consolidated")
    }


def with_fix(error: ConnectionError, copy: str) -> str:
    """Return an error of `fetch` with its fix. `copy` is how to use a copy; a token helps if the hub answers."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    token = "" if isinstance(error.__cause__, LocalEntryNotFoundError) else "set HF_TOKEN to a token with access, or "
    text = f"{token}{copy}"
    return f"{error}. {text[0].upper()}{text[1:]}"


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
