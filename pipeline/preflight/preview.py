"""Prints what a run would request, from which engine, and what is wrong with it, without an engine.

In: a configuration with the origin of each value. Out: lines on a console. Prompts are rendered as a run renders them,
in a temporary directory; the directory of runs gets the absent entries of its index and nothing else. Errors that a run
raises before its engine starts are raised here as well, with the same message.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config.schema import Config
from pipeline.errors import DataError, RunError
from pipeline.generate.engines.reasoning import parser_of
from pipeline.generate.engines.vllm_arguments import sampling_arguments
from pipeline.preflight import conf_file, sections
from pipeline.prepare import checks, prompt_stats
from pipeline.prepare.checks.facts import Facts, facts_of
from pipeline.prepare.checks.parser_facts import parser_facts
from pipeline.prepare.prompt_stats import Lengths, count_marked, pick, row_facts
from pipeline.prepare.references import odd_references
from pipeline.prepare.stage import Inputs, open_inputs, prepare
from pipeline.prepare.template_fingerprint import check_fingerprint
from pipeline.prepare.token_view import pieces
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs import estimate
from pipeline.runs.manifest import PromptMetadata, prompt_metadata
from pipeline.storage.artifacts import Artifact, ArtifactStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """A configuration file to write, and the arguments of the command line that it keeps."""

    file: Path
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewOptions:
    """Which prompts to show: `num_prompts` of each task, or only the row with this id; and the file to write."""

    row_id: int | None
    num_prompts: int
    keep: Keep | None = None


def show(config: Config, origins: Mapping[str, str], options: PreviewOptions, console: Console) -> None:
    """Print the preview of a configuration whose values have these origins.

    Raises:
        PipelineError: A run would fail with the same error before its engine starts, or no row has the requested id.
    """
    if options.keep is not None:
        conf_file.require_writable(options.keep.file)
    inputs = open_inputs(config)
    with _prepared(config, inputs, console) as prompts:
        rows = _picked(config, prompts, options)
        lengths = prompt_stats.lengths(prompts, in_tokens=inputs.chat is not None)
        facts, unchecked = _with_parser(_facts(config, inputs, prompts, lengths), inputs)
        sections.configuration(console, config, origins)
        sections.heading(console, "prompts")
        sections.template(console, facts.model, prompt_metadata(prompts.store, prompts.metadata))
        for row in rows:
            tokens = pieces(inputs.chat.tokenizer, row["prompt_token_ids"] or []) if inputs.chat else ()
            sections.prompt(console, row, tokens, facts.model, whole=options.row_id is not None)
        sections.lengths(console, lengths, config)
        sections.heading(console, "what the engine is sent")
        if config.engine.kind == "vllm":
            sections.vllm(console, config, _sampling(facts, unchecked), facts.model)
        else:
            sections.endpoint(console, config, _request(config, prompts, options))
        sections.expected(console, *estimate.expect(config, prompts), config)
        sections.check_results(
            console,
            checks.run_checks(facts),
            [check_fingerprint(config, prompt_metadata(prompts.store, prompts.metadata)), unchecked],
        )
    if options.keep is not None:
        file = options.keep.file
        conf_file.write(file, options.keep.arguments, config, conf_file.propose(facts, inputs.chat))
        sections.line(console, f"written: {file}: run it with python -m pipeline.run conf={file}")


@contextmanager
def _prepared(config: Config, inputs: Inputs, console: Console) -> Iterator[Artifact]:
    """Yield the artifact `prompts` as a run would write it, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="pipeline-preview-") as directory:
        run = ArtifactStore.open(directory)
        num_rows = 0
        with console.status("rendering") as status:

            def on_rows(number: int) -> None:
                nonlocal num_rows
                num_rows += number
                status.update(f"rendering: {num_rows:,} rows")

            def check(metadata: PromptMetadata) -> None:
                check_fingerprint(config, metadata)  # raises before a row is read; `show` prints its warning at the end

            try:
                prepare(config, run, inputs, on_rows, on_metadata=check)
            except RunError as error:
                raise RunError(f"TMPDIR={tempfile.gettempdir()!r} has no space for the prompts: {error}") from error
        yield run.require_artifact("prompts", PROMPT_SCHEMA)


def _picked(config: Config, prompts: Artifact, options: PreviewOptions) -> list[dict[str, Any]]:
    num_rows = options.num_prompts if options.row_id is None else 1
    rows = [row for name in config.active_tasks for row in pick(prompts, name, config.splits, num_rows, options.row_id)]
    if options.row_id is not None and not rows:
        limit = "" if config.limit is None else f" within limit={config.limit}"
        where = f"{', '.join(config.active_tasks)} ({', '.join(config.splits)})"
        raise DataError(f"id={options.row_id}: no row of {where} has this meta.id{limit}")
    return rows


def _facts(config: Config, inputs: Inputs, prompts: Artifact, lengths: Sequence[Lengths]) -> Facts:
    """Return the facts that the checks examine, without those of the reasoning parser."""
    facts = facts_of(config, inputs.sources, inputs.chat)
    rows = row_facts(lengths)
    if facts.model is not None:
        num_marked, marked = count_marked(prompts, facts.model.special, facts.model.num_special)
        rows = replace(rows, num_marked=num_marked, marked=marked)
    shares_block = checks.shares_block(facts, prompts.dataset())
    odd = odd_references(prompts.dataset())
    return replace(facts, rows=replace(rows, shares_block=shares_block, odd_references=odd))


def _with_parser(facts: Facts, inputs: Inputs) -> tuple[Facts, str | None]:
    """Return the facts with those of vLLM's reasoning parser, and the reason if they are unknown.

    Raises:
        ConfigError: vLLM does not know the parser, or the parser rejects the model's tokenizer. A run would fail too.
    """
    name = facts.config.reasoning_parser
    if name is None or inputs.chat is None:
        return facts, None
    try:
        parser = parser_of(facts.config, inputs.chat.tokenizer)
    except (ImportError, OSError) as error:  # for instance a build for GPUs on a machine without one
        return facts, f"reasoning_parser={name!r} is not checked: vllm cannot be imported here ({error})"
    return replace(facts, parser=parser_facts(parser, inputs.chat.tokenizer)), None


def _sampling(facts: Facts, unchecked: str | None) -> dict[str, Any]:
    """Return the sampling parameters of a request to vLLM; one depends on the parser, and may be unknown."""
    drops: bool | str = "unknown" if unchecked else True
    if facts.parser is not None:
        drops = facts.parser.drops_special_tokens
    return {**sampling_arguments(facts.config), "skip_special_tokens": drops}


def _request(config: Config, prompts: Artifact, options: PreviewOptions) -> dict[str, Any]:
    """Return the body of the first question's request to the endpoint."""
    from pipeline.generate.engines.openai_endpoint import request_body  # its client takes 0.3 s to import

    row = _picked(config, prompts, replace(options, num_prompts=1))[0]
    return request_body(config, str(row["messages"]))
