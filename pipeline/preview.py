"""What a run would ask, of whom, and what is wrong with it, without an engine.

python -m pipeline.preview conf=mera [task=med_bench] [id=17] [n=3] key=value ...
python -m pipeline.preview conf=mera plan=true [gpu=A100-SXM4-80GB] [gpus=8] key=value ...

In: the words of `run`, and its own: `task` (this one alone), `id` (this question alone), `n` (prompts to show of each
task). Out: lines on the terminal. Prompts are made as `run` makes them, in a temporary directory; nothing is written
where runs are. What `run` would refuse before its engine starts is refused here, in the same words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.cli import command
from pipeline.config.loading import COMMAND_LINE, compose, origins
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, RunError
from pipeline.planner import report as plan_report

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.prepare.checks.facts import Facts
    from pipeline.prepare.prompt_stats import Lengths
    from pipeline.prepare.stage import Inputs
    from pipeline.storage.artifacts import Artifact

OWN_ARGUMENTS = ("task", "id", "n")
MOST_PROMPTS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewOptions:
    """What of the run to show."""

    task: str | None = None
    row_id: int | None = None
    num_prompts: int = 3


def main(arguments: list[str]) -> None:
    """Print the preview that the words describe.

    Raises:
        PipelineError: What `run` would end with; or there is no such task or question.
    """
    plan_arguments, arguments = plan_report.split_arguments(arguments)
    options, rest = split_arguments(arguments)
    if plan_arguments and rest != arguments:
        raise ConfigError(f"{', '.join(OWN_ARGUMENTS)} have no part in a plan: leave them out, or plan=true")
    config = compose(rest)
    if plan_arguments:
        from pipeline.terminal.console import plain

        plan_report.show(config, plan_arguments, plain())
        return
    found = origins(rest)
    if options.task is not None:
        if options.task not in config.tasks:
            raise ConfigError(f"task={options.task!r}: there are {', '.join(config.tasks)}")
        config = replace(config, only=(options.task,))
        found["only"] = f"{COMMAND_LINE}, task="
    from pipeline.terminal.console import plain

    show(config, found, options, plain())


def split_arguments(arguments: Sequence[str]) -> tuple[PreviewOptions, list[str]]:
    """Return the preview's own words, and those of the run.

    Raises:
        ConfigError: One of its own words has an impossible value.
    """
    own = {
        name: value for name, _, value in (argument.partition("=") for argument in arguments) if name in OWN_ARGUMENTS
    }
    rest = [argument for argument in arguments if argument.partition("=")[0] not in own]
    row_id = _number("id", own["id"], -(2**63), 2**63 - 1) if "id" in own else None
    return PreviewOptions(
        task=own.get("task"), row_id=row_id, num_prompts=_number("n", own.get("n", "3"), 0, MOST_PROMPTS)
    ), rest


def _number(name: str, text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ConfigError(f"{name}={text!r}: give a number from {least} to {most}")
    return value


def show(config: Config, found: dict[str, str], options: PreviewOptions, console: Console) -> None:
    """Print the preview of a configuration whose values have the origins `found`."""
    from pipeline.comparison import gate
    from pipeline.generate import length_estimates
    from pipeline.prepare import checks, prompt_stats
    from pipeline.prepare.stage import open_inputs
    from pipeline.prepare.template_fingerprint import check_fingerprint
    from pipeline.prepare.token_view import pieces
    from pipeline.runs import estimate
    from pipeline.terminal import preview as preview_sections

    gate.check(config)
    length_estimates.check(config)
    inputs = open_inputs(config)
    with _prepared(config, inputs, console) as prompts:
        rows = _picked(config, prompts, options)
        lengths = prompt_stats.lengths(prompts, in_tokens=inputs.chat is not None)
        facts, unchecked = _with_parser(_facts(config, inputs, prompts, lengths), inputs)
        preview_sections.configuration(console, config, found)
        preview_sections.heading(console, "prompts")
        preview_sections.template(console, facts.model, prompts.metadata)
        for row in rows:
            tokens = pieces(inputs.chat.tokenizer, row["prompt_token_ids"] or []) if inputs.chat else ()
            preview_sections.prompt(console, row, tokens, facts.model, whole=options.row_id is not None)
        preview_sections.lengths(console, lengths, config)
        preview_sections.heading(console, "what the engine is sent")
        if config.engine.kind == "vllm":
            preview_sections.vllm(console, config, _sampling(facts, unchecked), facts.model)
        else:
            preview_sections.endpoint(console, config, _request(config, prompts, options))
        preview_sections.expected(console, *estimate.expect(config, prompts), config)
        preview_sections.check_results(
            console, checks.run_checks(facts), [check_fingerprint(config, prompts.metadata), unchecked]
        )


@contextmanager
def _prepared(config: Config, inputs: Inputs, console: Console) -> Iterator[Artifact]:
    """Give the stage `prompts` as `run` would write it, in a directory that goes away."""
    from pipeline.prepare.stage import prepare
    from pipeline.prepare.template_fingerprint import check_fingerprint
    from pipeline.records import PROMPT_SCHEMA
    from pipeline.storage.artifacts import ArtifactStore

    with tempfile.TemporaryDirectory(prefix="pipeline-preview-") as directory:
        run = ArtifactStore.open(directory)
        num_rows = 0
        with console.status("rendering") as status:

            def on_rows(number: int) -> None:
                nonlocal num_rows
                num_rows += number
                status.update(f"rendering: {num_rows:,} rows")

            def check(facts: Mapping[str, str | int]) -> None:
                check_fingerprint(config, facts)  # raises before a row is read; what it warns of is told at the end

            try:
                prepare(config, run, inputs, on_rows, on_metadata=check)
            except RunError as error:
                raise RunError(f"TMPDIR={tempfile.gettempdir()!r} has no room for the prompts: {error}") from error
        yield run.require_artifact("prompts", PROMPT_SCHEMA)


def _picked(config: Config, prompts: Artifact, options: PreviewOptions) -> list[dict[str, Any]]:
    from pipeline.prepare.prompt_stats import pick

    num_rows = options.num_prompts if options.row_id is None else 1
    rows = [row for name in config.active_tasks for row in pick(prompts, name, config.splits, num_rows, options.row_id)]
    if options.row_id is not None and not rows:
        limit = "" if config.limit is None else f" within limit={config.limit}"
        where = f"{', '.join(config.active_tasks)} ({', '.join(config.splits)})"
        raise DataError(f"id={options.row_id}: no row of {where} has this meta.id{limit}")
    return rows


def _facts(config: Config, inputs: Inputs, prompts: Artifact, lengths: Sequence[Lengths]) -> Facts:
    """Return what the lints look at, but for the reasoning parser."""
    from pipeline.prepare.checks.facts import facts_of
    from pipeline.prepare.prompt_stats import count_marked, row_facts

    facts = facts_of(config, inputs.sources, inputs.chat)
    rows = row_facts(lengths)
    if facts.model is not None:
        num_marked, marked = count_marked(prompts, facts.model.special, facts.model.num_special)
        rows = replace(rows, num_marked=num_marked, marked=marked)
    return replace(facts, rows=rows)


def _with_parser(facts: Facts, inputs: Inputs) -> tuple[Facts, str | None]:
    """Return the facts with what vLLM's reasoning parser does, and why that is unknown where it is.

    Raises:
        ConfigError: A run would end with it: vLLM does not know the parser, or it refuses the model's tokenizer.
    """
    from pipeline.generate.engines.reasoning import parser_of
    from pipeline.prepare.checks.parser_facts import parser_facts

    name = facts.config.reasoning_parser
    if name is None or inputs.chat is None:
        return facts, None
    try:
        parser = parser_of(facts.config, inputs.chat.tokenizer)
    except (ImportError, OSError) as error:  # of a build for GPUs where there is none, among others
        return facts, f"reasoning_parser={name!r} is not checked: vllm cannot be imported here ({error})"
    return replace(facts, parser=parser_facts(parser, inputs.chat.tokenizer)), None


def _sampling(facts: Facts, unchecked: str | None) -> dict[str, Any]:
    """Return the sampling parameters that vLLM is given; the parser decides on one, where it can be asked."""
    from pipeline.generate.engines.vllm_arguments import sampling_arguments

    drops: bool | str = "unknown" if unchecked else True
    if facts.parser is not None:
        drops = facts.parser.drops_special_tokens
    return {**sampling_arguments(facts.config), "skip_special_tokens": drops}


def _request(config: Config, prompts: Artifact, options: PreviewOptions) -> dict[str, Any]:
    """Return the body of the first question's request to the endpoint."""
    from pipeline.generate.engines.openai_endpoint import request_body

    row = _picked(config, prompts, replace(options, num_prompts=1))[0]
    return request_body(config, str(row["messages"]))


if __name__ == "__main__":
    raise SystemExit(command(main))
