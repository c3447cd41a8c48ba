"""The check of `warnings.py` over a scored run: samples/ in, the warnings about its answers out."""

from __future__ import annotations

from pipeline.config.schema import Config
from pipeline.publish.validation.warnings import AnswerCheck
from pipeline.records import SAMPLE_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

_COLUMNS = ["task", "split", "id", "repeat", "response", "answer", "error"]

_ANSWERS = """
    SELECT task, split, id, coalesce(response, '') AS response, answer FROM samples WHERE repeat = 0 AND error IS NULL
"""


def run_warnings(run: ArtifactStore, config: Config) -> tuple[str, ...]:
    """Return the warnings about what a run would submit, and about its responses in train, a line each.

    Failed rows are left out: they have no answer. So are repeats but the first, which is the one that is submitted.

    Args:
        run: The directory of a scored run.
        config: Its configuration; `submission.mode` selects what is submitted.

    Raises:
        DataError: The run has no samples, or they are damaged.
    """
    is_extracted = config.submission.mode == "extracted"
    checks: dict[tuple[str, str], AnswerCheck] = {}
    samples = run.require_artifact("samples", SAMPLE_SCHEMA)
    with query.connection() as database:
        database.register("samples", query.reader(samples, _COLUMNS))
        for batch in query.batches(database, _ANSWERS, rows=query.TEXT_ROWS):
            for row in batch.to_pylist():
                output = row["answer"] if is_extracted and row["answer"] is not None else row["response"]
                check = checks.setdefault((row["task"], row["split"]), AnswerCheck())
                check.add(row["id"], output, row["response"])
    found = ((f"{task} {split}", checks[task, split].lines()) for task, split in sorted(checks))
    return tuple(f"{where}: {line}" for where, lines in found for line in lines)
