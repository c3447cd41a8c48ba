"""Preflight checks: find settings that a run accepts but that would waste it.

Each check is a function that takes `Facts` and returns a `CheckResult` with a reason and a fix, or None. A check whose
facts are unknown returns None. A result that `ends_run` is raised by `require_startable` before any row is read; other
settings that a run rejects are not checks: the stage that uses them raises the error.
To add a check, write the function, add it to `CHECKS`, test a configuration that triggers it and one that does not,
and add a row to the table in docs/preview.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.prepare.checks import engine, settings, template, thinking
from pipeline.prepare.checks.check import CheckResult
from pipeline.prepare.checks.engine import shares_block
from pipeline.prepare.checks.facts import Facts
from pipeline.prepare.prompt_stats import lengths, row_facts
from pipeline.runs.manifest import prompt_metadata
from pipeline.storage.artifacts import Artifact

__all__ = ["CHECKS", "CheckResult", "require_startable", "run_checks", "shares_block", "warnings", "warnings_by_name"]


CHECKS: Sequence[Callable[[Facts], CheckResult | None]] = (
    template.doubled_begin_of_text,
    template.missing_begin_of_text,
    template.no_generation_prompt,
    template.switch_without_effect,
    template.system_dropped,
    template.template_with_date,
    template.turn_never_ends,
    thinking.stop_in_reasoning,
    thinking.stop_never_matches,
    thinking.thinking_without_parser,
    thinking.parser_mismatch,
    thinking.parser_takes_answers,
    thinking.short_thinking,
    settings.rows_do_not_fit,
    settings.special_tokens_in_questions,
    settings.odd_references,
    settings.context_beyond_model,
    settings.unused_sampling,
    settings.greedy_repeats,
    engine.speculative_decoding,
    engine.other_numerics,
    engine.penalties_left_out,
    engine.prefix_caching_without_hits,
    engine.slots_above_graphs,
    settings.no_revision,
    settings.remote_code,
)


def run_checks(facts: Facts) -> list[CheckResult]:
    """Return the results of the checks that these facts trigger, at most one per check."""
    return [result for each in CHECKS if (result := each(facts)) is not None]


def require_startable(facts: Facts) -> None:
    """Check that no check is certain that the engine will not start.

    Raises:
        ConfigError: One is; the message is its reason and fix.
    """
    for result in run_checks(facts):
        if result.ends_run:
            raise ConfigError(f"{result.reason}: {result.fix}")


def warnings_by_name(facts: Facts) -> dict[str, str]:
    """Return the one-line results of the triggered checks, keyed by the check's name."""
    return {result.name: result.line for result in run_checks(facts)}


def warnings(config: Config, prompts: Artifact) -> list[str]:
    """Return the warnings recorded when the prompts were prepared, followed by those about the rows themselves."""
    lines = list(prompt_metadata(prompts.store, prompts.metadata).warnings.values())
    if config.engine.kind != "vllm":  # without a tokenizer, no row is known to exceed the context
        return lines
    rows = row_facts(lengths(prompts, in_tokens=True))
    result = settings.rows_do_not_fit(Facts(config=config, hub_commits={}, rows=rows))
    return [*lines, result.line] if result else lines
