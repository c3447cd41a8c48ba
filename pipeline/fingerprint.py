"""Which model a run was made with, when a directory has no commit to name it by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.config import ModelConfig

WHOLE_BYTES = 16 << 20
"""Size up to which a file's whole content counts; of a larger one, its size and its two ends of 1 MiB."""

END_BYTES = 1 << 20


def model_fingerprint(model: ModelConfig) -> str | None:
    """Return a hash over the files of a local model directory, or None for a hub id or an endpoint's model.

    It tells a model that was trained further or converted anew from the one before, in less than a second for any
    size; it is no proof against somebody who changes the middle of a weights file.
    """
    folder = Path(model.path).expanduser() if model.path else None
    if folder is None or not folder.is_dir():
        return None
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # caches and marks of download tools
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(WHOLE_BYTES if size <= WHOLE_BYTES else END_BYTES)
            if size > WHOLE_BYTES:
                file.seek(-END_BYTES, 2)
                content += file.read()
        whole.update(f"{path.relative_to(folder)} {size} {hashlib.sha256(content).hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"
