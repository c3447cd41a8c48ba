"""Compares the harness's logs with our prompts, metrics and extraction: writes every difference, and prints a table.

In: lm-evaluation-harness's own sample logs and a configuration. Out: `<out>/differences.parquet`, a row for each
question and field that differs; `<out>/extracted.parquet`, a row for each response that its extracted letters and its
exact match score differently.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import pyarrow.compute as pc
from rich.console import Console

from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, Differs
from pipeline.harness.diff import DIFFERENCE_SCHEMA, EXTRACTED_SCHEMA, of_ids, of_prompt, of_run, of_scores
from pipeline.harness.log_files import LogFile, choose, find_logs
from pipeline.harness.log_lines import ARTIFACT, LOG_SCHEMA, write_log
from pipeline.harness.normalize import our_arguments
from pipeline.harness.pairing import PairedSources, pair_sources
from pipeline.harness.report import print_report
from pipeline.harness.tally import Tally, verdict
from pipeline.prepare.stage import open_inputs, prepare
from pipeline.records import PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs.directory import open_finished
from pipeline.score.row_scores import read_doc, score_row
from pipeline.storage.artifacts import Artifact, ArtifactStore, RowWriter, parquet_files

DIFFERENCES, EXTRACTED = "differences.parquet", "extracted.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Which logs to replay, and where to write the differences.

    `task` is the task of a single log, in place of the one in its file name. With `run`, the responses of that run are
    compared as well. `out` is by default `outputs/replay-<UTC time>`.
    """

    logs: str
    task: str | None
    run: str | None
    out: str | None


def replay_logs(config: Config, options: ReplayOptions, console: Console) -> None:
    """Find the logs and replay them.

    Raises:
        Differs: The harness and this pipeline differ.
        UserError: The logs, the data set or the run cannot be used; the message has the fix.
    """
    with find_logs(options.logs) as files:
        logs = choose(files, config.tasks, config.only, options.task)
        for file in files:
            if file not in logs.values():
                console.print(f"left out: {file.name}", soft_wrap=True, markup=False)
        with tempfile.TemporaryDirectory(prefix="pipeline-replay-") as work:
            replay(config, options, logs, ArtifactStore.open(work), console)


def replay(
    config: Config, options: ReplayOptions, logs: Mapping[str, LogFile], work: ArtifactStore, console: Console
) -> None:
    """Compare every task that has a log, write what differs and print the tables.

    Args:
        config: The configuration whose prompts and metrics are compared.
        options: The run to compare as well, and where to write.
        logs: The log of each task.
        work: A directory for temporary artifacts.
        console: The console for the tables.

    Raises:
        Differs: There is a difference.
        UserError: See `replay_logs`.
    """
    samples = _samples(options.run) if options.run is not None else None
    config = replace(config, only=tuple(logs))
    theirs = _write_logs(work, logs)
    ours = _prepare(config, work, theirs)
    out = ArtifactStore.open(options.out or f"outputs/replay-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}")
    out.create()
    tallies: dict[str, Tally] = {}
    with (
        out.row_writer(DIFFERENCES, DIFFERENCE_SCHEMA) as differences,
        out.row_writer(EXTRACTED, EXTRACTED_SCHEMA) as extracted,
    ):
        for task, file in logs.items():
            both = pair_sources(task, theirs, ours, samples)
            if not both.splits:
                raise DataError(f"{file.name}: none of its ids is in tasks.{task}.dataset: is it the log of this task?")
            tallies[task] = _compare(both, config, differences, extracted)
    found = parquet_files(out, [DIFFERENCES], DIFFERENCE_SCHEMA)
    print_report(console, tallies, found, with_run=samples is not None)
    console.print(f"  {out.shown(DIFFERENCES)}  every difference", soft_wrap=True, markup=False)
    console.print(
        f"  {out.shown(EXTRACTED)}  responses that their letters judge otherwise", soft_wrap=True, markup=False
    )
    num_differences = found.count_rows()
    if num_differences:
        raise Differs(f"{num_differences:,} differences between the harness and us: {out.shown(DIFFERENCES)}")


def _write_logs(work: ArtifactStore, logs: Mapping[str, LogFile]) -> Artifact:
    with work.publish(ARTIFACT, LOG_SCHEMA) as store:
        for task, file in logs.items():
            write_log(store, task, file)
    return work.require_artifact(ARTIFACT, LOG_SCHEMA)


def _prepare(config: Config, work: ArtifactStore, theirs: Artifact) -> Artifact:
    """Prepare our prompts of the same tasks; render them, which needs a tokenizer, only if the log's are."""
    num_rendered = theirs.dataset().count_rows(filter=pc.field("prompt").is_valid())
    if num_rendered and config.engine.kind != "vllm":
        raise ConfigError(
            f"engine.kind={config.engine.kind!r}: {num_rendered:,} prompts of the log are rendered text, which only a "
            "model's own tokenizer gives: set engine.kind=vllm and model.path"
        )
    prepare(config, work, open_inputs(config, messages_only=not num_rendered))
    return work.require_artifact("prompts", PROMPT_SCHEMA)


def _samples(directory: str) -> Artifact:
    run, _ = open_finished(directory)
    return run.require_artifact("samples", SAMPLE_SCHEMA)


def _compare(both: PairedSources, config: Config, differences: RowWriter, extracted: RowWriter) -> Tally:
    """Compare one task's questions and return the counts."""
    tally = Tally(left_out=both.left_out)
    generation = our_arguments(config.generation)
    for pair in both.pairs(is_limited=config.limit is not None):
        theirs, ours = pair.theirs, pair.ours
        tally.num_logged += theirs is not None
        found = list(of_ids(pair))
        if theirs is not None and ours is not None:
            question = read_doc(ours.doc)
            has_options = question.num_options is not None
            scores = score_row(theirs.content, theirs.gold, question.options, truncated=False, has_options=has_options)
            found += of_prompt(theirs, ours, generation)
            found += of_scores(theirs, scores.em, scores.f1)
            found += of_run(theirs, pair.answered) if both.samples is not None else ()
            found_verdict = verdict(theirs.gold, theirs.response, scores.answer, scores.em, scores.correct)
            if found_verdict is not None:
                row = asdict(scores) | {
                    "task": both.task,
                    "id": theirs.id,
                    "verdict": found_verdict,
                    "gold": theirs.gold or None,
                }
                extracted.add({name: row[name] for name in EXTRACTED_SCHEMA.names})
            tally.count(found, found_verdict)
        for difference in found:
            differences.add({"task": both.task} | asdict(difference))
    return tally
