"""The runs in output_dir: complete ones from the index, the others from their manifests; newest first.

In: a directory of runs, on a disk or in object storage. Out: a record of each run, which the terminal's table, the JSON
and the board show. Every text in it may be foreign: what shows it escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.config.plain_yaml import value
from pipeline.errors import RunError, UserError
from pipeline.runs import directory, index
from pipeline.runs.index import EntryScore, IndexEntry, left_out, model_key, run_scores
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

MOST_INCOMPLETE = 500
"""Maximum number of incomplete runs whose manifests are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A run: `entry` is that of a complete one; of another its model and start are known if its manifest has them.

    `status` is `complete`, `running`, `crashed`, `failed`, or `no manifest`. `reason` is why a run failed.
    """

    run_id: str
    status: str
    model: str | None = None
    date: str | None = None
    reason: str | None = None
    entry: IndexEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """Runs, newest first, and a line for each that cannot be read."""

    runs: tuple[ListedRun, ...]
    unread: tuple[str, ...]


def open_output(output_dir: str, argument: str = "output_dir") -> ArtifactStore:
    """Return the directory of the runs.

    Raises:
        RunError: It does not exist, or cannot be reached.
    """
    output = ArtifactStore.open(output_dir)
    if not output.exists():
        raise RunError(f"{argument}={output.shown()}: there is no such directory: give that of the runs")
    return output


def find(output: ArtifactStore, *, model: str | None = None, last: int = 30) -> RunList:
    """Return the newest runs, at most `last`.

    Args:
        output: The directory of the runs.
        model: Only runs of models whose name contains this text, whatever its case.
        last: Maximum number of runs.

    Raises:
        RunError: The directory cannot be reached.
    """
    unread: list[str] = []
    incomplete: list[str] = []

    def is_match(name: str | None) -> bool:
        return model is None or model.casefold() in (name or "").casefold()

    entries = index.newest(
        output,
        is_match=lambda entry: is_match(entry.model_name),
        limit=last,
        most_read=10**6,
        unread=unread,
        incomplete=incomplete,
    )
    found = [_complete(entry) for entry in entries]
    if len(incomplete) > MOST_INCOMPLETE:
        unread.append(f"{len(incomplete) - MOST_INCOMPLETE:,} more runs that are not complete are not listed")
    with ThreadPoolExecutor(index.NUM_AT_ONCE) as pool:
        others = pool.map(lambda run_id: _incomplete(output, run_id, unread), sorted(incomplete)[-MOST_INCOMPLETE:])
        found += [run for run in others if run is not None and is_match(run.model)]
    found.sort(key=lambda run: (run.date or "", run.run_id), reverse=True)
    return RunList(runs=tuple(found[:last]), unread=tuple(dict.fromkeys(unread)))


def _complete(entry: IndexEntry) -> ListedRun:
    date = entry.ended_at or entry.started_at
    return ListedRun(run_id=entry.run_id, status=entry.status, model=entry.model_name, date=date, entry=entry)


def _incomplete(output: ArtifactStore, run_id: str, unread: list[str]) -> ListedRun | None:
    """Return a run that has no index entry; None if it is complete and damaged, which `unread` already has."""
    run = output.child(f"{index.RUN_PREFIX}{run_id}")
    try:
        manifest = read_manifest(run, finite=True)
        if manifest is None:
            return ListedRun(run_id=run_id, status="no manifest")
        if manifest.is_complete:
            return None
        status = directory.status(run, manifest)
    except UserError as error:
        line = left_out(run.root, error)
        unread += [line] if line not in unread else []
        return None
    return ListedRun(
        run_id=run_id,
        status=status,
        model=_model_name(manifest),
        date=manifest.ended_at if status == "failed" else manifest.started_at,
        reason=manifest.reason,
    )


def _model_name(manifest: Manifest) -> str | None:
    """Return the model's name in the configuration that a manifest recorded; None if there is none that is a text."""
    config: Mapping[str, Any] = manifest.config
    if not isinstance(value(config, "model", "path", default=""), (str, type(None))):
        return None
    names = [part for part in model_key(config)[1:] if isinstance(part, str) and part]
    return names[-1][:1_000] if names else None


def headline(entry: IndexEntry, metric: str = "score") -> EntryScore | None:
    """Return the value of a metric over all domains, of the test split if that was scored, else of the first split."""
    scored = run_scores(entry.scores, metric)
    return min(scored, key=lambda each: (each.split != "test", each.split), default=None)
