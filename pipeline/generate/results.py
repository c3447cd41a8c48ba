"""What became of a worker's rows: the completion of each for the journal, and a line each for the driver.

A status tells whether a row is done, whether it failed and how many tokens it took, and nothing of the completion
itself, which is in the journal before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.generate.attempt_log import RowStatus
from pipeline.generate.engines.base import Output
from pipeline.records import Completion
from pipeline.terminal.text import replace_surrogates

STATUS_SCHEMA = pa.schema(
    [
        pa.field("done", pa.bool_(), nullable=False),
        pa.field("failed", pa.bool_(), nullable=False),
        pa.field("num_output_tokens", pa.int64(), nullable=False),
        pa.field("fatal_kind", pa.string()),
        pa.field("fatal", pa.string()),
    ]
)
"""One row a work row; or a single row with `fatal`, the message of the `PipelineError` that no row gets past.

An exception would do, but Ray hands on only its text, and the driver wants its kind.
"""


def statuses(rows: Sequence[RowStatus | None]) -> pa.Table:
    """Return the status of each row of a block; None is a row that was not begun."""
    found = [
        {
            "done": row is not None,
            "failed": row is not None and row.failed,
            "num_output_tokens": row.num_output_tokens if row is not None else 0,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(found, schema=STATUS_SCHEMA)


def fatal_status(error: PipelineError) -> pa.Table:
    """Return the one status that ends the run with this error."""
    empty = {"done": False, "failed": False, "num_output_tokens": 0}
    fatal = {"fatal_kind": type(error).__name__, "fatal": str(error)}
    return pa.Table.from_pylist([{**empty, **fatal}], schema=STATUS_SCHEMA)


def completion_of(
    row: dict[str, Any], result: Output | str, *, attempts: int, replica: str, queued_s: float, generated_s: float
) -> Completion:
    """Return a work row's completion; `result` is the engine's output, or why there is none."""
    output = result if isinstance(result, Output) else None
    return Completion(
        task=row["task"],
        split=row["split"],
        id=row["id"],
        repeat=row["repeat"],
        prompt_sha256=row["prompt_sha256"],
        completion=replace_surrogates(output.completion) if output else None,
        reasoning=replace_surrogates(output.reasoning) if output else None,
        content=replace_surrogates(output.content) if output else None,
        finish_reason=output.finish_reason if output else "error",
        num_prompt_tokens=output.num_prompt_tokens if output else None,
        num_output_tokens=output.num_output_tokens if output else None,
        error=None if output else replace_surrogates(str(result)),
        attempts=attempts,
        replica=replica,
        queued_s=queued_s,
        generated_s=generated_s,
    )
