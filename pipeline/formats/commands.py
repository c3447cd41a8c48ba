"""What the command export does: a run in, files of another program out."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from pipeline.errors import ConfigError, RunError
from pipeline.formats import hugging_face, inspect_log, tables, trackio
from pipeline.formats.source import Source, read_source
from pipeline.terminal.console import print_line


class Format(NamedTuple):
    """A format: what writes it, whether into a directory that is made for it, and how its path ends."""

    write: Callable[[Source, Path], Any]
    is_directory: bool
    ending: str


FORMATS: Mapping[str, Format] = {
    "csv": Format(tables.write_csv, True, "-csv"),
    "xlsx": Format(tables.write_xlsx, False, ".xlsx"),
    "hf": Format(hugging_face.write_data_set, True, "-hf"),
    "inspect": Format(inspect_log.write_logs, True, "-inspect"),
}
"""The formats that appear whole. Trackio adds to a directory of its own, which other runs share."""


def export(run: str, to: str, out: str | None, console: Console) -> None:
    """Write a complete run in another format and print where it is.

    Raises:
        ConfigError: `out` exists, or the package of the format is not installed.
        RunError: The run is not complete, or `out` cannot be written.
        DataError: The run is damaged, or too large for the format.
    """
    source = read_source(run)
    if to == "trackio":
        path = Path(out or "trackio").expanduser()
        num_values = trackio.write_trackio(source, path)
        line = f"{path}  {num_values:,} values of run {source.config.run_id} in project {trackio.PROJECT}"
    else:
        form = FORMATS[to]
        path = Path(out or f"{source.config.run_id}{form.ending}").expanduser()
        with _new(path, is_directory=form.is_directory) as partial:
            form.write(source, partial)
        line = f"{path}  {source.samples.num_rows:,} samples of run {source.config.run_id}"
    print_line(console, f"  {line}")


@contextmanager
def _new(path: Path, *, is_directory: bool) -> Iterator[Path]:
    """Yield a path to write to; it is renamed to `path` when the block succeeds.

    Raises:
        ConfigError: `path` exists.
        RunError: It cannot be written.
    """
    if os.path.lexists(path):
        raise ConfigError(f"out={path}: it exists already: remove it, or give another path")
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}{path.suffix}")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if is_directory:
            partial.mkdir()
        yield partial
        partial.rename(path)
    except OSError as error:
        raise RunError(f"out={path} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if partial.is_file():
            partial.unlink()
