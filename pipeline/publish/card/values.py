"""What stands in each field of the form: measured where the run knows it, else what people configured, else nothing.

In: a run's directory, its configuration and what its manifest holds. Out: a `Value` a field. Nothing is guessed: a
value that neither the run nor the configuration knows has no text, and becomes TODO in the card.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from pipeline.config.harness_arguments import harness_arguments
from pipeline.config.schema import Config, GenerationConfig
from pipeline.publish.card.fields import MODEL_TYPES, Value, results_of
from pipeline.publish.card.measured import engine_value, of_model, of_software
from pipeline.runs.manifest import Manifest
from pipeline.storage.artifacts import ArtifactStore

CHAT_TEMPLATE_FILE = "prompts/chat_template.jinja"

MODEL_FIELDS = (
    *("model_name", "model_link", "model_size", "model_type", "additional_links"),
    *("architecture_description", "training_description", "license"),
)
"""Keys of `submission` that tell of the model, and hold for `submission.describes` only."""

PEOPLE_FIRST = ("model_name", "model_link", "architecture_description")
"""What people call or describe better than the model's address and its config.json."""


def values(run: ArtifactStore, config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return the value of every field of the form and beyond it that this run has.

    Args:
        run: The run's directory, scored.
        config: Its configuration.
        manifest: Its manifest.
    """
    found = of_software(config, manifest) | of_model(config, manifest) | _of_prompt(run, config, manifest)
    for name, stated in _of_people(config).items():
        measured = found.get(name, Value())
        choices = (stated, measured) if name in PEOPLE_FIRST else (measured, stated)
        found[name] = next((value for value in choices if value.text is not None), Value())
    return found | _results(run, config) | _beyond(config, manifest)


def _of_people(config: Config) -> dict[str, Value]:
    """Return what the configuration says; what tells of another model than the run's is left out."""
    stated, own = config.submission, config.submission.describes in (None, config.model.path)
    found = {}
    for name in ("team", "mera_version", *MODEL_FIELDS):
        parts = getattr(stated, name) if own or name not in MODEL_FIELDS else None
        text = ", ".join(parts) if isinstance(parts, tuple) else parts
        found[name] = Value(text or None, f"submission.{name}")
    if found["model_type"].text is not None:
        ru = ", ".join(MODEL_TYPES.get(word, word) for word in stated.model_type)
        found["model_type"] = Value(found["model_type"].text, "submission.model_type", ru)
    for item in fields(stated.unmeasured):
        found[item.name] = Value(getattr(stated.unmeasured, item.name), f"submission.unmeasured.{item.name}")
    return found


def _of_prompt(run: ArtifactStore, config: Config, manifest: Manifest) -> dict[str, Value]:
    per_task = (f"{task} - {notation(config.generation)};" for task in config.active_tasks)
    note = None
    if config.engine.kind == "endpoint":
        note = (
            "what is not named here the server may set by itself, from the model's generation_config.json",
            "что здесь не названо, сервер может задать сам, по generation_config.json модели",
        )
    # The form shows one line: the published submission separates its tasks with a backslash and an n.
    found = {"generation": Value("\\n".join(per_task), "generation", note=note)}
    digest = manifest.datasets.chat_template_sha256
    if run.exists(CHAT_TEMPLATE_FILE):
        found["chat_template"] = Value(run.read_text(CHAT_TEMPLATE_FILE), CHAT_TEMPLATE_FILE)
    elif digest is not None and config.prompt.chat_template is None:
        own, ru = "the model's own", "собственный темплейт модели"
        where = "datasets.chat_template_sha256"
        found["chat_template"] = Value(f"{own}, SHA-256 {digest}", where, f"{ru}, SHA-256 {digest}")
    return found


def notation(generation: GenerationConfig) -> str:
    """Return the sampling as the form writes it, such as `do_sample=false;until=["</s>"];max_gen_toks=10000`."""
    parts = {name: value for name, value in harness_arguments(generation).items() if (name, value) != ("top_k", 0)}
    if generation.repeats > 1:
        parts["repeats"] = generation.repeats
    return ";".join(
        f"{name}={json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for name, value in parts.items()
    )


def _results(run: ArtifactStore, config: Config) -> dict[str, Value]:
    """Return the domains' scores on the whole test split, as far as its golds are known, and what only the site knows.

    Of the first rows only, without one of its tasks, or with an announced one, a domain has another score than the
    leaderboard's.
    """
    import pyarrow.parquet as pq

    by_site = ("the site sets it", "ставит сайт")
    found = {"created": Value(note=by_site)}
    rows: dict[str, dict[str, Any]] = {}
    if "test" in config.splits and config.limit is None and run.exists("metrics.parquet"):
        filters = [("level", "==", "domain"), ("split", "==", "test"), ("metric", "==", "score")]
        columns = ["task", "group_by", "value", "num_total", "num_scored"]
        table = pq.read_table(run.path("metrics.parquet"), filesystem=run.fs, columns=columns, filters=filters)
        rows = {row["task"]: row for row in table.to_pylist() if row["group_by"] is None}
    for domain in dict.fromkeys(task.domain for task in config.active_tasks.values()):
        score, rank = results_of(domain)
        row = rows.get(domain, {})
        run_tasks = {name for name, task in config.active_tasks.items() if task.domain == domain}
        scored = {name for name, task in config.tasks.items() if task.domain == domain and not task.announced}
        is_whole = run_tasks == scored and row.get("num_scored") == row.get("num_total")
        if is_whole and row.get("value") is not None:
            note = (f"{row['num_total']} answers", f"ответов: {row['num_total']}")
            found[score.name] = Value(f"{row['value']:.3f}", "metrics.parquet", note=note)
        else:
            hidden = ("the site scores the hidden golds", "сайт оценивает по скрытым ответам")
            found[score.name] = Value(note=hidden)
        found[rank.name] = Value(note=by_site)
    return found


def _beyond(config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return what the form has no field for and a repetition needs; what does not apply is left out."""
    prompts = manifest.datasets
    lines = [f"{task}: {revision}" for task, revision in prompts.dataset_revisions.items()]
    limits = [] if config.limit is None else [f"limit={config.limit}"]
    limits += [] if "test" in config.splits else [f"splits={json.dumps(list(config.splits))}"]
    limits += [f"only={json.dumps(list(config.only))}"] if config.only else []
    kwargs = config.prompt.template_kwargs
    found = {
        "coverage": Value("; ".join(limits) or None, "limit, splits, only"),
        "submission_mode": Value(config.submission.mode, "submission.mode"),
        "server": engine_value(manifest, "server"),
        "served_model": engine_value(manifest, "served_model"),
        "model_revision": Value(prompts.model_revision, "datasets.model_revision"),
        "model_fingerprint": Value(manifest.model_fingerprint, "model_fingerprint"),
        "data_revisions": Value("\n".join(lines) or None, "datasets"),
        "chat_template_sha256": Value(prompts.chat_template_sha256, "datasets.chat_template_sha256"),
        "template_fingerprint": Value(manifest.template_fingerprint, "template_fingerprint"),
        "template_kwargs": Value(json.dumps(kwargs, ensure_ascii=False) if kwargs else None, "prompt.template_kwargs"),
        "system_prompt": Value(config.prompt.system, "prompt.system"),
        "reasoning_parser": Value(config.reasoning_parser, "reasoning_parser"),
        "gpu_driver": engine_value(manifest, "gpu_driver"),
    }
    return {name: value for name, value in found.items() if value.text is not None}
