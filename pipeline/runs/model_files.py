"""Hashes that identify a local model, a template file or a text, which have no commit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pipeline.config.paths import expanded
from pipeline.config.schema import Config, ModelConfig, PromptConfig
from pipeline.errors import ModelError

WHOLE_BYTES = 16 << 20
"""Files up to this size are hashed whole; of a larger file, its size and its first and last 1 MiB."""

END_BYTES = 1 << 20

LOCAL = re.compile(r"~|\.{0,2}/|data/")
"""Matches the start of a model.path that can only be a directory, not a repository of the hub."""


def require_directory(model: ModelConfig) -> None:
    """Check that a model.path that can only be a directory is one.

    Raises:
        ModelError: There is no such directory.
    """
    if model.path is None:
        return
    path = expanded(model.path)
    if not path.is_dir() and (path.exists() or LOCAL.match(model.path)):
        raise ModelError(f"model.path={model.path!r}: there is no such directory (seen from {Path.cwd()})")


def sha256_of(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def model_fingerprint(model: ModelConfig) -> str | None:
    """Return a hash over the files of a local model directory, or None for a hub id or an endpoint's model.

    The hash changes when the model is trained further or converted again, and takes less than a second for any size.
    It does not detect a deliberate change in the middle of a weights file.
    """
    directory = expanded(model.path) if model.path else None
    if directory is None or not directory.is_dir():
        return None
    whole = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        if any(part.startswith(".") for part in path.relative_to(directory).parts):
            continue  # caches and metadata of download tools
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(WHOLE_BYTES if size <= WHOLE_BYTES else END_BYTES)
            if size > WHOLE_BYTES:
                file.seek(-END_BYTES, 2)
                content += file.read()
        whole.update(f"{path.relative_to(directory)} {size} {hashlib.sha256(content).hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def fingerprint_of(config: Config) -> str | None:
    """Return `model_fingerprint` of the model that generates; None for an endpoint, whose server has the model."""
    return model_fingerprint(config.model) if config.engine.kind == "vllm" else None


def read_template(prompt: PromptConfig) -> str | None:
    """Return the text of the file `prompt.chat_template`, or None if the model's own template is used.

    Raises:
        ModelError: The file cannot be read, is not UTF-8 text, or is empty.
    """
    if prompt.chat_template is None:
        return None
    at = f"prompt.chat_template={prompt.chat_template!r}"
    try:
        template = expanded(prompt.chat_template).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelError(f"{at} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{at} is not UTF-8 text: {error}") from error
    if not template.strip():
        raise ModelError(f"{at} is empty: write a Jinja chat template into it, or set it to null")
    return template
