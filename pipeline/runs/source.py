"""Which code runs: the commit recorded when the package was built, that of the checkout, or a hash of the files.

In: the package's directory. Out: a commit and whether files differ from it. setup.py calls this module while it builds
a wheel, so it imports the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

VARIABLE = "PIPELINE_COMMIT"
"""Environment variable with the commit, for a build without Git; `-dirty` at its end means that files differ."""

BUILT_FILE = "built_from.json"
"""File in the package's directory with what the build identified. A checkout has none."""

COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/+-]{0,127}")


def identify(package: Path) -> tuple[str, bool]:
    """Return the commit of the code in `package`, and whether files differ from it.

    The sources are, in this order: what a build recorded; the Git checkout that holds the package; the environment
    variable; without them `sha256:` and a hash of the package's files, which differs whenever they do.
    """
    return _built(package) or _from_git(package) or _from_environment() or (_hash(package), False)


def record(package: Path, target: Path) -> None:
    """Write what `package` is into its copy `target`, which is being built; here the environment variable wins."""
    commit, modified = _from_environment() or _built(package) or _from_git(package) or (_hash(package), False)
    text = json.dumps({"commit": commit, "modified": modified})
    (target / BUILT_FILE).write_text(text + "\n", encoding="utf-8")


def _built(package: Path) -> tuple[str, bool] | None:
    try:
        found = json.loads((package / BUILT_FILE).read_text(encoding="utf-8"))
        return str(found["commit"]), bool(found["modified"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_environment() -> tuple[str, bool] | None:
    text = os.environ.get(VARIABLE, "").strip()
    if not COMMIT.fullmatch(text):
        return None
    return text.removesuffix("-dirty"), text.endswith("-dirty")


def _from_git(package: Path) -> tuple[str, bool] | None:
    """Return the commit of the checkout that holds the package, and whether files of the package differ from it.

    None if the directory above the package is no checkout, or only a directory inside one.
    """
    root = package.parent
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel")) != root.resolve():
            return None
        # Only the code: a user's own conf/mine.yaml is none, and a run records its whole configuration.
        return _git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain", "--", package.name))
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def _hash(package: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(package).as_posix()
            whole.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"
