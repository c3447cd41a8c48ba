"""Answers a query over the runs of output_dir with the views of notebooks/views.sql.

The query may come from a script or a colleague, and the runs from other people: DuckDB reads files only through
`_RunFiles`, which opens regular files inside of output_dir and nothing else, and writes none. Only a SELECT is run.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
from fsspec import AbstractFileSystem

from pipeline.config.paths import HOME
from pipeline.errors import ConfigError, DataError
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import named

VIEWS = HOME / "notebooks" / "views.sql"

ROOT = "runs://outputs"
"""The directory of the runs, as the views and the query name it."""

ON_DEMAND = ("samples", "metrics")
"""Views over files of every run: they are made only if the query names them."""


class _RunFiles(AbstractFileSystem):  # type: ignore[misc]
    """The regular files of a directory of runs, to read, under `runs://outputs`; what a link leads to is left out."""

    protocol = "runs"
    cachable = False

    def __init__(self, store: ArtifactStore) -> None:
        super().__init__()
        self._store = store
        self._globbed = cache(self._glob)

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the files that match a pattern, sorted."""
        return list(self._globbed(_name(path)))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size and type of a file."""
        (found,) = self._files([_name(path)]) or [None]
        if found is None:
            raise FileNotFoundError(path)
        return {"name": path, "size": found.size, "type": "file", "mtime": found.mtime}

    def modified(self, path: str) -> Any:
        """Return the time of the last change of a file."""
        return self.info(path)["mtime"]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path} is only read")
        self.info(path)
        return self._store.fs.open_input_file(self._store.path(_name(path)))

    def _glob(self, pattern: str) -> tuple[str, ...]:
        found = [""]
        for part in pattern.split("/"):
            if any(each in part for each in "*?["):
                found = [name for place in found for name in self._children(place) if _matches(name, part)]
            else:
                found = [f"{place}/{part}".lstrip("/") for place in found]
        return tuple(sorted(f"{ROOT}/{self._relative(info)}" for info in self._files(found)))

    def _children(self, place: str) -> list[str]:
        try:
            selector = pafs.FileSelector(self._store.path(place), allow_not_found=True)
            return [self._relative(info) for _, info in named(self._store.fs.get_file_info(selector))]
        except (OSError, DataError):  # a file, a directory of another user, or a name that leads out
            return []

    def _files(self, names: Sequence[str]) -> list[Any]:
        """Return what is known of those names that are regular files and lead out of the directory over no link."""
        if any(".." in name.split("/") for name in names):  # `Directory.path` refuses it with an error
            return []
        infos = self._store.fs.get_file_info([self._store.path(name) for name in names])
        return [info for info in infos if info.type == pafs.FileType.File and not self._is_linked(info.path)]

    def _is_linked(self, path: str) -> bool:
        return self._store.local is not None and os.path.realpath(path) != path

    def _relative(self, info: Any) -> str:
        return str(info.path)[len(self._store.root) + 1 :]


def _name(path: str) -> str:
    return path.removeprefix("runs://").removeprefix("outputs").lstrip("/")


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)


@contextmanager
def answer(output: ArtifactStore, sql: str) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Yield the names of the columns and the rows that a SELECT over the views returns.

    Raises:
        ConfigError: The text is no single SELECT, or fails.
        DataError: A file of a run cannot be read.
    """
    with query.connection() as database:
        files = _RunFiles(output)
        database.register_filesystem(files)
        try:
            yield _rows(database, sql)
        except (duckdb.OutOfMemoryException, duckdb.InvalidInputException) as error:
            if "'pytz'" in str(error):  # DuckDB needs this package for such times in Python, and nothing else here does
                fix = "a column is a TIMESTAMP WITH TIME ZONE: write CAST(<column> AS VARCHAR)"
                raise ConfigError(f"sql={sql[:200]!r}: {fix}") from error
            raise DataError(f"sql= cannot be answered: {error}") from error
        except (duckdb.Error, pa.ArrowException) as error:
            raise ConfigError(f"sql={sql[:200]!r}: {error}") from error
        finally:
            database.unregister_filesystem("runs")


def _rows(database: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    statements = database.extract_statements(sql)
    if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
        example = "sql='SELECT run, model FROM runs'"
        raise ConfigError(f"sql={sql[:200]!r}: one SELECT is run and nothing else, for instance {example}")
    database.execute("SET VARIABLE outputs = $outputs", {"outputs": ROOT})
    database.execute(f"SET allowed_directories = ['{ROOT}/']")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    for statement in database.extract_statements(VIEWS.read_text(encoding="utf-8")):
        absent = [name for name in ON_DEMAND if f"VIEW {name} " in statement.query and name not in sql.casefold()]
        if not absent:
            database.execute(statement)
    result = database.execute(statements[0])
    return [str(column[0]) for column in result.description or ()], _fetched(result)


def _fetched(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(query.BATCH_ROWS):
        yield from rows
