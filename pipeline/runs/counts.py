"""Counts of a run's samples by outcome, and of their tokens."""

from __future__ import annotations

from pipeline.records import SAMPLE_SCHEMA, Counts
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

_COUNTS = """
    SELECT count(*) AS num_samples, count(em) AS num_scored,
           count(*) FILTER (finish_reason = 'length') AS num_truncated,
           count(*) FILTER (answer IS NULL AND error IS NULL) AS num_no_answer,
           count(error) AS num_failed,
           if(count(num_prompt_tokens) = 0 AND count(*) > count(error), NULL, coalesce(sum(num_prompt_tokens), 0))
               ::BIGINT AS num_prompt_tokens,
           if(count(num_output_tokens) = 0 AND count(*) > count(error), NULL, coalesce(sum(num_output_tokens), 0))
               ::BIGINT AS num_output_tokens
    FROM samples
"""


def count_samples(run: ArtifactStore) -> Counts:
    """Return the number of samples of a run by outcome, and their total number of tokens.

    A total is None where rows have succeeded and none has a count: a server need not report its usage.

    Raises:
        DataError: The run has no samples yet, or they are damaged.
    """
    with query.connection() as database:
        database.register("samples", run.require_artifact("samples", SAMPLE_SCHEMA).dataset())
        return Counts(**query.rows(database, _COUNTS)[0])
