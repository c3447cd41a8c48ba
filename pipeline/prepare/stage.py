"""The prepare stage: turns every row of every task into a prompt, or into a prompt with an error.

`prepare` reads the data sets that the configuration names and writes the artifact `prompts`: files
`task=<t>/split=<s>/part-00000.parquet` with `PROMPT_SCHEMA`. Memory does not grow with the rows, except for DuckDB's
count of ids, which may spill to disk. A problem with a data set as a whole raises; a single row that cannot be sent to
the model is written with `error` set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow as pa

from pipeline.config.schema import Config
from pipeline.errors import DataError, ModelError
from pipeline.prepare import checks
from pipeline.prepare.chat_template import Chat, Messages, TemplateFailed, check_template_kwargs, open_chat
from pipeline.prepare.checks.facts import Facts, facts_of
from pipeline.prepare.dataset import Source, find_source
from pipeline.prepare.dataset_rows import read_rows
from pipeline.prepare.prompt_stats import RowFacts
from pipeline.prepare.question import Question, read_question
from pipeline.prepare.references import odd_references
from pipeline.prepare.template_fingerprint import template_fingerprint
from pipeline.records import PROMPT_SCHEMA, Prompt, to_table
from pipeline.runs.manifest import PromptMetadata
from pipeline.runs.model_files import fingerprint_of, sha256_of
from pipeline.storage.artifacts import ArtifactStore, parquet_files
from pipeline.storage.query import connection

ARTIFACT = "prompts"
TEMPLATE_FILE = "chat_template.jinja"
ROWS_PER_BATCH = 512
ROWS_PER_FILE = 20_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """The input of the stage: where the rows are, and the chat that renders them (None: they are not rendered here)."""

    sources: Sequence[Source]
    chat: Chat | None


def open_inputs(config: Config, *, messages_only: bool = False) -> Inputs:
    """Return the data sets of a run and, when prompts are rendered here, the chat.

    Args:
        config: The run's configuration.
        messages_only: Prepare messages only, without text and tokens, so that no tokenizer is needed.

    Raises:
        ConfigError: prompt.template_kwargs holds an argument that the pipeline sets itself.
        DataError: There is no such data set or split.
        ModelError: The tokenizer or the chat template cannot be used.
    """
    renders = config.engine.kind == "vllm" and not messages_only
    if renders:
        check_template_kwargs(config)
    sources = [find_source(name, task, config.splits) for name, task in config.active_tasks.items()]
    return Inputs(sources, open_chat(config) if renders else None)


def prepare(
    config: Config,
    run: ArtifactStore,
    inputs: Inputs | None = None,
    on_rows: Callable[[int], None] | None = None,
    on_metadata: Callable[[PromptMetadata], None] | None = None,
) -> None:
    """Write the artifact `prompts` of a run.

    Its metadata holds `dataset_revision.<task>` (a commit, or `sha256:` of the local files), `model_fingerprint` for a
    local model and the warnings of the preflight checks. With engine.kind=vllm it also holds `chat_template_sha256`,
    `template_fingerprint` and, for a hub model, `model_revision`; the template that was used is stored next to the
    prompts.

    Args:
        config: The run's configuration.
        run: The run's directory.
        inputs: The result of `open_inputs`, when the caller already has it.
        on_rows: Called with the number of rows of each batch after it is written.
        on_metadata: Called with the artifact's metadata before any row is read. When it raises, the run's directory is
            left unchanged.

    Raises:
        ConfigError: prompt.template_kwargs holds an argument that the pipeline sets itself, or the engine is certain
            not to start.
        DataError: A data set, a split or a row does not follow the benchmark's layout.
        ModelError: The tokenizer or the chat template cannot be used.
        RunError: The run's directory cannot be written.
    """
    inputs = inputs or open_inputs(config)
    chat = inputs.chat
    facts = facts_of(config, inputs.sources, chat)
    checks.require_startable(facts)
    metadata = _metadata(config, inputs, facts)
    if on_metadata is not None:
        on_metadata(metadata)
    stored = metadata.to_flat()
    with run.publish(ARTIFACT, PROMPT_SCHEMA, metadata=stored) as store:
        if chat is not None:
            store.write_text(TEMPLATE_FILE, chat.template)
        is_first = True
        for source in inputs.sources:
            for split in config.splits:
                batches = _batches(config, source, split, chat, is_first, on_rows or (lambda _: None))
                _write_split(store, source, split, batches)
                is_first = False
            _check_unique(store, source.task)
        stored |= replace(metadata, warnings=_warnings(facts, store)).to_flat()  # written when the block ends


def _metadata(config: Config, inputs: Inputs, facts: Facts) -> PromptMetadata:
    """Return what is stored with the prompts; the warnings are only those about the settings."""
    chat = inputs.chat
    return PromptMetadata(
        dataset_revisions={source.task: source.revision for source in inputs.sources},
        warnings=checks.warnings_by_name(facts),
        model_fingerprint=fingerprint_of(config),
        chat_template_sha256=chat.template_sha256 if chat else None,
        template_fingerprint=template_fingerprint(chat) if chat else None,
        model_revision=chat.revision if chat else None,
    )


def _warnings(facts: Facts, store: ArtifactStore) -> dict[str, str]:
    """Return the warnings about the settings, the reference answers, and the prefixes that the prompts share."""
    prompts = parquet_files(store, store.files(suffix=".parquet"), PROMPT_SCHEMA)
    rows = RowFacts(
        num_rows=0,
        num_unfit=0,
        unfit=(),
        shares_block=checks.shares_block(facts, prompts),
        odd_references=odd_references(prompts),
    )
    return checks.warnings_by_name(replace(facts, rows=rows))


def _write_split(store: ArtifactStore, source: Source, split: str, batches: Iterator[pa.Table]) -> None:
    where = f"task={source.task}/split={split}"
    if not store.write_parts(where, PROMPT_SCHEMA, batches, ROWS_PER_FILE):
        files = ", ".join(str(file) for file in source.files[split][:5])
        raise DataError(f"tasks.{source.task}.dataset: split {split} has no rows ({files}): take it out of splits")


def _batches(
    config: Config, source: Source, split: str, chat: Chat | None, is_first: bool, on_rows: Callable[[int], None]
) -> Iterator[pa.Table]:
    """Yield the prompts of a split as tables of at most ROWS_PER_BATCH rows."""
    task = config.tasks[source.task]
    rows = enumerate(islice(read_rows(source, split), config.limit), start=1)
    questions = (read_question(source.task, task, split, number, row) for number, row in rows)
    while batch := list(islice(questions, ROWS_PER_BATCH)):
        prompts = [_endpoint_prompt(question, config) for question in batch]
        if chat is not None:
            prompts = _with_text(prompts, config, chat, is_first)
        is_first = False
        yield to_table(prompts, PROMPT_SCHEMA)
        on_rows(len(prompts))


def _endpoint_prompt(question: Question, config: Config) -> Prompt:
    """Return the prompt with messages only: a remote endpoint renders them itself."""
    system: Messages = [{"role": "system", "content": config.prompt.system}] if config.prompt.system else []
    messages = json.dumps([*system, {"role": "user", "content": question.text}], ensure_ascii=False)
    return Prompt(
        task=question.task,
        split=question.split,
        id=question.id,
        categories=question.categories,
        doc=question.doc,
        messages=messages,
        prompt=None,
        prompt_sha256=sha256_of(messages),
        prompt_token_ids=None,
        num_prompt_tokens=None,
        gold=question.gold,
        error=None,
    )


def _with_text(prompts: Sequence[Prompt], config: Config, chat: Chat, is_first: bool) -> list[Prompt]:
    """Return the prompts with their text and tokens, or with the error that prevents their generation.

    Raises:
        ModelError: The template fails on the run's first row, and so presumably on all rows.
    """
    rendered: list[Prompt] = []
    for prompt in prompts:
        try:
            text = chat.render_question(json.loads(prompt.messages))
            rendered.append(replace(prompt, prompt=text, prompt_sha256=sha256_of(text)))
        except TemplateFailed as failure:
            if is_first and not rendered:
                row = f"{prompt.task} {prompt.split} id={prompt.id}"
                raise ModelError(f"{chat.origin} fails on the first row, {row}: {failure}") from failure
            rendered.append(replace(prompt, error=f"{chat.origin} fails on this row: {failure}"))
    ids = iter(chat.encode([prompt.prompt for prompt in rendered if prompt.prompt is not None]))
    return [_with_tokens(p, next(ids), config) if p.prompt is not None else p for p in rendered]


def _with_tokens(prompt: Prompt, ids: list[int], config: Config) -> Prompt:
    max_tokens, context_size = config.generation.max_gen_toks, config.model.context_size
    if context_size is None or len(ids) + max_tokens <= context_size:
        return replace(prompt, prompt_token_ids=ids, num_prompt_tokens=len(ids))
    error = (
        f"{len(ids)} prompt tokens + generation.max_gen_toks={max_tokens} are more than "
        f"model.context_size={context_size}: raise model.context_size or lower generation.max_gen_toks"
    )
    return replace(prompt, num_prompt_tokens=len(ids), error=error)


def _check_unique(store: ArtifactStore, task: str) -> None:
    """Raise `DataError` when two rows of a task have the same id."""
    prompts = parquet_files(store, store.files(f"task={task}", suffix=".parquet"), PROMPT_SCHEMA)
    with connection() as database:
        database.register("prompts", prompts)
        twice = database.execute(
            "SELECT id, count(*), min(split), max(split) FROM prompts "
            "GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 1"
        ).fetchone()
    if twice is not None:
        row_id, count, first, last = twice
        where = first if first == last else f"{first} and {last}"
        raise DataError(f"{task} {where} id={row_id}: {count} rows have this meta.id: it must be unique in the task")
