"""What a run's tokens cost at an endpoint's prices.

In: samples/ with the tokens that the server counted, and the prices of the configuration. Out: a `Cost`. A row whose
tokens the server did not count is never taken as free: it makes the amount a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config.schema import Config
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs.manifest import Cost
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

MILLION = 1_000_000

_TOKENS = """
    SELECT
        coalesce(sum(num_prompt_tokens) FILTER (is_known), 0)::BIGINT AS num_prompt_tokens,
        coalesce(sum(num_output_tokens) FILTER (is_known), 0)::BIGINT AS num_output_tokens,
        count(*) FILTER (is_known) AS num_known,
        count(*) FILTER (NOT is_known) AS num_unknown
    FROM (
        SELECT *, num_prompt_tokens IS NOT NULL AND num_output_tokens IS NOT NULL AS is_known FROM samples
        WHERE attempts > 0  -- the others were never sent
    )
"""


def cost_of(config: Config, runs: Iterable[ArtifactStore]) -> Cost | None:
    """Return the cost of the samples of a run and of its second pass; None without prices.

    Requests that were sent again after a failure are not counted: a server reports no tokens for them.

    Args:
        config: The run's configuration.
        runs: The directories with samples.

    Raises:
        DataError: Samples are missing or damaged.
    """
    price = config.engine.endpoint.price
    if config.engine.kind != "endpoint" or price.input_per_million is None or price.output_per_million is None:
        return None
    num_prompt = num_output = num_known = num_unknown = 0
    for run in runs:
        with query.connection() as database:
            database.register("samples", run.require_artifact("samples", SAMPLE_SCHEMA).dataset())
            row = query.rows(database, _TOKENS)[0]
        num_prompt, num_output = num_prompt + row["num_prompt_tokens"], num_output + row["num_output_tokens"]
        num_known, num_unknown = num_known + row["num_known"], num_unknown + row["num_unknown"]
    amount = (num_prompt * price.input_per_million + num_output * price.output_per_million) / MILLION
    return Cost(
        amount=amount if num_known or not num_unknown else None,
        currency=price.currency,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_output,
        num_unknown=num_unknown,
    )


def line(cost: Cost) -> str:
    """Return a cost in words: `1.25 USD`, `at least 1.25 USD (3 rows without a token count)` or `not known`."""
    if cost.amount is None:
        return f"not known: the server counted no tokens ({cost.num_unknown:,} rows)"
    amount = f"{cost.amount:,.2f}" if cost.amount >= 1 else f"{cost.amount:.4g}"
    if not cost.num_unknown:
        return f"{amount} {cost.currency}"
    return f"at least {amount} {cost.currency} ({cost.num_unknown:,} rows without a token count)"
