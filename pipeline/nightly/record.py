"""What is recorded of a night: night=<id>.json in output_dir, which is also what a notification has.

In: the runs' directories. Out: a record of each run. A value that a run did not record is null. Texts that come from a
run's process are cut, and hold no secrets of the environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from pipeline.config.secrets import SECRET_NAME, SECRET_VALUE
from pipeline.errors import GateFailed, Interrupted, NightFailed, TooManyFailedRows, UserError, without_secrets
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.nightly.night_file import PlannedRun
from pipeline.nightly.processes import Ended
from pipeline.runs.index import RUN_PREFIX, EntryScore, IndexEntry, entry_of, model_key, name_of, run_scores
from pipeline.runs.manifest import GateResult, Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.tables import with_interval
from pipeline.terminal.text import counted, one_line

Status: TypeAlias = Literal["pending", "running", "complete", "failed", "interrupted"]

COMPLETE_CODES = (0, GateFailed.exit_code, TooManyFailedRows.exit_code)
"""Exit codes of `run` with which a run is complete."""

LONGEST_REASON = 1_000
LONGEST_IN_TEXT = 200
"""Characters of a reason in the record, and in its line of text."""

SHORTEST_SECRET = 6
"""Characters of a value of the environment that is taken for a secret."""

_INNER = re.compile(r"([\w.-]+)[\"']?\s*[:=]\s*[\"']?([^\s\"',{}\[\]]+)")
"""A key and its value inside of an argument, such as `engine.extra={hf_token: ...}`."""

HARMLESS = str.maketrans({"<": "‹", ">": "›", "@": "＠", "`": "'"})
"""For chats: what comes from a run must notify nobody and be no link and no markup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run of a night. Fields that are known of a complete run alone are None until it is.

    `was_complete` is whether nothing was left to do. `exit_code` is that of its process, negative after a signal.
    `seconds` are those of its last session, and of its process if it is not complete. `scores` has the headline metrics
    as the index has them, `changes` those of the run since the gate's baseline. `run` and `report` are paths or URIs.
    """

    name: str
    run_id: str
    status: Status = "pending"
    was_complete: bool = False
    exit_code: int | None = None
    reason: str | None = None
    conf: str | None = None
    model: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    seconds: float | None = None
    num_rows: int | None = None
    num_failed: int | None = None
    num_output_tokens: int | None = None
    scores: tuple[EntryScore, ...] | None = None
    gate: Mapping[str, Any] | None = None
    changes: tuple[Mapping[str, Any], ...] | None = None
    run: str | None = None
    report: str | None = None

    @classmethod
    def of(cls, planned: PlannedRun, output: ArtifactStore) -> RunRecord:
        """Return the record of a run that has not begun, or that cannot begin."""
        place = output.uri(f"{RUN_PREFIX}{planned.run_id}")
        record = cls(name=planned.name, run_id=planned.run_id, run=place)
        if planned.config is None:
            reason = public(planned.error or "", planned.arguments)
            return replace(record, status="failed", exit_code=UserError.exit_code, reason=reason)
        return replace(record, conf=planned.config.conf, model=name_of(model_key(planned.config)))

    def ended(self, ended: Ended, output: ArtifactStore, was: Manifest | None, *, is_stopping: bool) -> RunRecord:
        """Return the record of a run whose process has ended.

        Args:
            ended: How the process ended.
            output: The directory of the runs.
            was: The manifest before the process was started.
            is_stopping: Whether the night was signalled to stop.
        """
        record = replace(self, exit_code=ended.exit_code, seconds=round(ended.seconds, 1))
        run = output.child(f"{RUN_PREFIX}{self.run_id}")
        reason = ended.reason
        if ended.exit_code in COMPLETE_CODES:
            try:
                manifest = read_manifest(run, finite=True)
                if manifest is not None and manifest.is_complete:
                    entry = entry_of(run, self.run_id, manifest)
                    was_complete = was is not None and was.is_complete and entry.is_of(was)
                    return _complete(record, entry, manifest, output, was_complete=was_complete)
                reason = f"ended with exit code {ended.exit_code}, and its manifest is not complete"
            except UserError as error:
                reason = str(error)
        status: Status = "interrupted" if is_stopping else "failed"
        return replace(record, status=status, reason=public(reason))

    @property
    def main_scores(self) -> list[EntryScore]:
        """The score of the run on each split that has one."""
        return run_scores(self.scores)

    def change(self, split: str) -> Mapping[str, Any] | None:
        """Return how the run's score on a split has changed since the baseline."""
        of_run = (each for each in self.changes or () if each["level"] == "run" and each["metric"] == "score")
        return next((each for each in of_run if each["split"] == split), None)

    @property
    def broken(self) -> list[str]:
        """The names of the gate's rules that are broken."""
        return list(self.gate["broken"]) if self.gate is not None else []


@dataclass(frozen=True, slots=True, kw_only=True)
class NightRecord:
    """A night: its runs in their order, and the exit code of the command once it has ended.

    `started_at` is that of the last command with this id. `index` is the path of index.html.
    """

    night: str
    status: Literal["running", "complete", "failed", "interrupted"] = "running"
    exit_code: int | None = None
    strict: bool
    started_at: str
    ended_at: str | None = None
    output_dir: str
    index: str | None = None
    runs: tuple[RunRecord, ...]

    def to_json(self) -> str:
        """Return the record as JSON in ASCII, with its line of text first."""
        return json.dumps({"text": self.text, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    def with_run(self, record: RunRecord) -> NightRecord:
        """Return the record with a run replaced."""
        return replace(self, runs=tuple(record if each.name == record.name else each for each in self.runs))

    def of_code(self, code: int) -> list[str]:
        """Return the names of the complete runs whose exit code this is."""
        return [run.name for run in self.runs if run.status == "complete" and run.exit_code == code]

    @property
    def unfinished(self) -> list[str]:
        """The names of the runs that are not complete."""
        return [run.name for run in self.runs if run.status != "complete"]

    def ended(self, ended_at: str, *, is_stopping: bool) -> NightRecord:
        """Return the record of a night that has ended, with its exit code."""
        if self.unfinished and is_stopping:
            return replace(self, status="interrupted", exit_code=Interrupted.exit_code, ended_at=ended_at)
        if self.unfinished:
            return replace(self, status="failed", exit_code=NightFailed.exit_code, ended_at=ended_at)
        # As of a run: scores of which many rows are missing show little about a gate.
        codes = (TooManyFailedRows.exit_code, GateFailed.exit_code)
        code = next((each for each in codes if self.strict and self.of_code(each)), 0)
        return replace(self, status="complete", exit_code=code, ended_at=ended_at)

    @property
    def text(self) -> str:
        """The verdict on one line."""
        num, num_complete = len(self.runs), len(self.runs) - len(self.unfinished)
        head = f"night {self.night}: {num_complete} of {counted(num, 'run')} complete"
        state = f" ({self.status})" if self.status in ("running", "interrupted") else ""
        return f"{head}{state}; {'; '.join(_in_text(run) for run in self.runs)}"


def public(text: str, arguments: Sequence[str] = (), also: Collection[str] = ()) -> str:
    """Return a text on one line, cut, without secrets: those of URIs, of the environment, and of known services.

    Args:
        text: The text.
        arguments: Arguments `key=value` that it may quote; the value of a key that is named like a secret is left out.
        also: Other values that are left out.
    """
    pairs = [argument.partition("=")[::2] for argument in arguments]
    pairs += [(match[1], match[2]) for argument in arguments for match in _INNER.finditer(argument)]
    for name, value in [*pairs, *os.environ.items()]:
        if SECRET_NAME.search(name.lower().replace("-", "_").replace(".", "_")) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    for value in filter(None, also):
        text = text.replace(value, "***")
    return one_line(SECRET_VALUE.sub("***", without_secrets(text)), LONGEST_REASON)


def _complete(
    record: RunRecord, entry: IndexEntry, manifest: Manifest, output: ArtifactStore, *, was_complete: bool
) -> RunRecord:
    return replace(
        record,
        status="complete",
        was_complete=was_complete,
        conf=entry.conf,
        model=entry.model_name,
        started_at=entry.started_at,
        ended_at=entry.ended_at,
        seconds=entry.seconds,
        num_rows=entry.num_rows,
        num_failed=entry.num_failed,
        num_output_tokens=entry.num_output_tokens,
        scores=entry.scores,
        gate=_gate(manifest.gate) if manifest.gate is not None else None,
        changes=_changes(manifest),
        report=output.uri(entry.report) if entry.report is not None else None,
    )


def _gate(result: GateResult) -> dict[str, Any]:
    rules = [{"name": rule.name, "broken": rule.broken, "line": public(rule.line)} for rule in result.rules]
    return {"baseline": result.baseline, "broken": list(result.broken), "rules": rules}


def _changes(manifest: Manifest) -> tuple[dict[str, Any], ...] | None:
    """Return the changes of the run's headline metrics since the baseline, or None if none were computed."""
    if manifest.compare is None:
        return None
    rows = [row for row in manifest.compare if row.level == "run" and row.metric in HEADLINE_METRICS]
    names = ("level", "task", "split", "metric", "base", "new", "difference", "ci_low", "ci_high", "p_value")
    return tuple({name: getattr(row, name) for name in names} for row in rows)


def _in_text(run: RunRecord) -> str:
    if run.status != "complete":
        reason = f": {one_line(run.reason, LONGEST_IN_TEXT).translate(HARMLESS)}" if run.reason else ""
        return f"{run.name} {run.status}{reason}"
    parts = [_score_in_text(run, score) for score in run.main_scores]
    if run.exit_code == TooManyFailedRows.exit_code:
        parts.append(f"{counted(run.num_failed or 0, 'row')} failed")
    parts += [f"gate broken: {one_line(', '.join(run.broken), LONGEST_IN_TEXT)}"] if run.broken else []
    return f"{run.name} {', '.join(parts) or 'complete'}".translate(HARMLESS)


def _score_in_text(run: RunRecord, score: EntryScore) -> str:
    change = run.change(score.split)
    difference = f" ({change['difference']:+.3f})" if change is not None else ""
    return f"{score.split} {with_interval(score.value, score.ci_low, score.ci_high)}{difference}"
