"""Samples and metrics as logs of Inspect (`.eval`), written by its own package: one log for each task and split.

Its viewer shows prompts, reasoning, responses and scores, and `inspect_ai.analysis` reads the logs as data frames.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline.formats.source import Source, require_package
from pipeline.metrics.names import SAMPLE_METRICS
from pipeline.records import read_messages

STOP_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter", "tool_calls": "tool_calls"}
"""Inspect's words for ours; all others are `unknown`."""

PARTS = {"mean": "value", "stderr": "stderr", "ci_low": "ci_low", "ci_high": "ci_high"}
"""The parts of a metric, by the names that Inspect's log has them under."""

DETAILS = (
    *("prompt", "instruction", "num_options", "answer_kind", "extraction", "finish_reason", "attempts", "replica"),
    *("queued_s", "generated_s"),
)
"""Columns of a sample that are its metadata in the log."""


def write_logs(source: Source, out: Path) -> int:
    """Write the logs into the directory `out`, and return how many there are. A whole task is in memory at a time.

    Raises:
        ConfigError: The package inspect_ai is not installed.
        DataError: The messages of a sample are damaged.
    """
    log = require_package("inspect_ai.log", "inspect", "inspect")
    num_logs = 0
    for task, split in source.cells:
        samples = [_sample(row, source.model) for row in source.rows(task, split)]
        if samples:
            name = f"{source.manifest.ended_at}_{task}-{split}_{source.config.run_id}.eval".replace(":", "-")
            log.write_eval_log(_log(source, task, split, samples), str(out / name), format="eval")
            num_logs += 1
    return num_logs


def _log(source: Source, task: str, split: str, samples: list[Any]) -> Any:
    from inspect_ai import log
    from inspect_ai.model import GenerateConfig

    config, manifest = source.config, source.manifest
    name = hashlib.sha256(f"{config.run_id}/{task}/{split}".encode()).hexdigest()[:22]
    generation, repeats = config.generation, config.generation.repeats_by_split[split]
    return log.EvalLog(
        status="success",
        eval=log.EvalSpec(
            eval_id=name,
            run_id=config.run_id,
            task_id=name,
            created=str(manifest.started_at or manifest.ended_at),
            task=f"{task}-{split}",
            dataset=log.EvalDataset(
                name=task,
                location=config.tasks[task].dataset,
                samples=len({each.id for each in samples}),
                sample_ids=list(dict.fromkeys(each.id for each in samples)),
                shuffled=False,
            ),
            model=source.model,
            model_generate_config=GenerateConfig(max_tokens=generation.max_gen_toks, seed=config.seed),
            config=log.EvalConfig(limit=config.limit, epochs=repeats),
            metadata={
                "settings_hash": manifest.settings_hash,
                "config": dict(manifest.config),
                "report": source.store.shown("report.html"),
            },
        ),
        results=_results(source, task, split, samples),
        stats=log.EvalStats(started_at=manifest.started_at or "", completed_at=manifest.ended_at or ""),
        samples=samples,
    )


def _results(source: Source, task: str, split: str, samples: list[Any]) -> Any:
    from inspect_ai import log

    scores = []
    for row in source.metrics.to_pylist():
        if (row["level"], row["task"], row["split"], row["group_by"]) != ("task", task, split, None):
            continue
        known = {name: row[column] for name, column in PARTS.items() if row[column] is not None}
        scores.append(
            log.EvalScore(
                name=row["metric"],
                scorer=row["metric"],
                scored_samples=row["num_scored"],
                unscored_samples=max(0, row["num_total"] - row["num_scored"]),
                metrics={name: log.EvalMetric(name=name, value=value) for name, value in known.items()},
                metadata={name: row[name] for name in row if name.startswith(("num_", "bound_"))},
            )
        )
    num_failed = sum(each.error is not None for each in samples)
    return log.EvalResults(total_samples=len(samples), completed_samples=len(samples) - num_failed, scores=scores)


def _sample(row: dict[str, Any], model: str) -> Any:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.scorer import Score

    asked = [_message(each["role"], each["content"]) for each in read_messages(row["messages"])]
    output = _output(row, model)
    scores = {
        name: Score(value=row[name], answer=row["answer"], explanation=row["extraction"])
        for name in SAMPLE_METRICS
        if row[name] is not None
    }
    details = {name: row[name] for name in DETAILS if row[name] is not None}
    error = row["error"]
    return EvalSample(
        id=row["id"],
        epoch=row["repeat"] + 1,
        input=asked,
        target=row["gold"] or "",
        messages=[*asked, *(choice.message for choice in output.choices)],
        output=output,
        scores=scores,
        metadata={each["key"]: each["value"] for each in row["categories"]} | details,
        model_usage={model: output.usage} if output.usage is not None else {},
        total_time=row["generated_s"],
        error=None if error is None else EvalError(message=error, traceback=error, traceback_ansi=error),
    )


def _output(row: dict[str, Any], model: str) -> Any:
    """Return what the model generated, the reasoning apart from the response."""
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
        ModelOutput,
        ModelUsage,
    )

    if row["completion"] is None:
        return ModelOutput(model=model, error=row["error"])
    content: list[Any] = [] if row["reasoning"] is None else [ContentReasoning(reasoning=row["reasoning"])]
    text = row["response"] if content else row["response"] or row["completion"]
    message = ChatMessageAssistant(content=[*content, ContentText(text=text or "")], model=model, source="generate")
    stop = STOP_REASONS.get(row["finish_reason"], "unknown")
    num_prompt, num_output = row["num_prompt_tokens"], row["num_output_tokens"]
    usage = None
    if num_prompt is not None and num_output is not None:
        usage = ModelUsage(input_tokens=num_prompt, output_tokens=num_output, total_tokens=num_prompt + num_output)
    choice = ChatCompletionChoice(message=message, stop_reason=stop)
    return ModelOutput(model=model, choices=[choice], usage=usage, time=row["generated_s"])


def _message(role: str, content: str) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "developer": ChatMessageSystem, "assistant": ChatMessageAssistant}
    return kinds.get(role, ChatMessageUser)(content=content)
