"""How many parameters a model has, read from the headers of its safetensors files.

In: a model that has been loaded, so that its files are on this machine. Out: a number, or None. No weights are read and
nothing is downloaded.
"""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def num_parameters(path: str, revision: str | None = None, download_dir: str | None = None) -> int | None:
    """Return the numbers that a model's checkpoint stores, vision towers and the like included.

    Args:
        path: Directory, or hub id of a model in the cache.
        revision: Commit, tag or branch of the hub model.
        download_dir: The cache, where it is not the usual one.

    Returns:
        The sum over all tensors, as the hub shows it; None where there are no safetensors files to read it from.
    """
    from huggingface_hub import get_local_safetensors_metadata, snapshot_download

    try:
        directory = Path(path).expanduser()
        if not directory.is_dir():
            cached = snapshot_download(path, revision=revision, cache_dir=download_dir, local_files_only=True)
            directory = Path(cached)
        return sum(get_local_safetensors_metadata(directory).parameter_count.values())
    except Exception:  # files from outside; the engine runs all the same, and the number stays unknown
        logger.warning("The number of parameters of %s is unknown", path, exc_info=True)
        return None
