"""The values of the form's fields: measured by the run if possible, else configured, else unknown.

In: a run's directory, its configuration and its manifest, with what each replica reported of its engine. Out: a `Value`
for each field. Nothing is guessed: a value that is neither measured nor configured has no text, and becomes TODO in the
card.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from pipeline.config.harness_arguments import harness_arguments
from pipeline.config.model_words import MODEL_WORDS
from pipeline.config.schema import Config, GenerationConfig
from pipeline.publish.card.fields import MODEL_TYPES, Value, results_of
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.manifest import Manifest
from pipeline.storage.artifacts import ArtifactStore

CHAT_TEMPLATE_FILE = "prompts/chat_template.jinja"

CONFIGURED_FIRST = ("model_name", "model_link", "architecture_description")
"""Fields for which a configured value is better than the one derived from the model's path and config.json."""

SHAPE = {
    "num_layers": ("layers", "слоёв"),
    "hidden_size": ("hidden size", "скрытая размерность"),
    "num_attention_heads": ("attention heads", "голов внимания"),
    "num_kv_heads": ("key-value heads", "голов ключей и значений"),
    "head_size": ("head size", "размерность головы"),
    "num_experts": ("experts", "экспертов"),
    "num_experts_per_token": ("experts a token", "экспертов на токен"),
    "vocab_size": ("vocabulary", "размер словаря"),
}


def values(run: ArtifactStore, config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return the values of the form's fields and of the fields of `BEYOND`, by field name.

    Args:
        run: The directory of a scored run.
        config: Its configuration.
        manifest: Its manifest.

    Raises:
        DataError: The run's recorded chat template cannot be read.
    """
    found = _of_software(config, manifest) | _of_model(config, manifest) | _of_prompt(run, config, manifest)
    for name, configured in _configured(config, evaluated_model(config, manifest)).items():
        measured = found.get(name, Value())
        choices = (configured, measured) if name in CONFIGURED_FIRST else (measured, configured)
        found[name] = next((value for value in choices if value.text is not None), Value())
    return found | _results(run, config) | _beyond(config, manifest)


def _configured(config: Config, model: str | None) -> dict[str, Value]:
    """Return the configured values; those that describe another model than the evaluated one have no text."""
    submission, own = config.submission, config.submission.describes in (None, model)
    found = {}
    for name in ("team", "mera_version", *MODEL_WORDS):
        parts = getattr(submission, name) if own or name not in MODEL_WORDS else None
        text = ", ".join(parts) if isinstance(parts, tuple) else parts
        found[name] = Value(text or None, f"submission.{name}")
    if found["model_type"].text is not None:
        ru = ", ".join(MODEL_TYPES.get(name, name) for name in submission.model_type)
        found["model_type"] = Value(found["model_type"].text, "submission.model_type", ru)
    for item in fields(submission.unmeasured):
        found[item.name] = Value(getattr(submission.unmeasured, item.name), f"submission.unmeasured.{item.name}")
    return found


def _of_software(config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return the software and hardware of the run: those of the engine, not of the driver."""
    found = {name: _engine_value(manifest, name) for name in ("torch", "cuda", "transformers")}
    if found["cuda"].text is None and _engine_value(manifest, "device").text == "cpu":
        found["cuda"] = Value("none", "engine.device", "нет", ("torch for the CPU", "torch для CPU"))
    gpus = manifest.hardware.gpus
    if gpus is not None:
        found["gpus"] = Value("; ".join(gpus) or "0 (CPU)", "hardware.gpus")
    found |= {"codebase": _codebase(manifest), "seed": Value(str(config.seed), "seed")}
    found["context_size"] = _engine_value(manifest, "max_model_len")
    if config.engine.kind == "endpoint":
        return found | {"engine": Value("local-chat-completions", "engine.kind"), "batch": _batch_of_endpoint(config)}
    version = _engine_value(manifest, "vllm").text
    batch = _engine_value(manifest, "max_num_seqs")
    note = (
        "max_num_seqs: the most sequences at once in one engine, which composes its batches on the fly",
        "max_num_seqs: больше стольких последовательностей один движок не ведёт; батч он составляет на ходу",
    )
    engine = Value(f"vllm {version}" if version else "vllm", "engine.vllm" if version else "engine.kind")
    return found | {"engine": engine, "batch": Value(batch.text, batch.origin, note=note if batch.text else None)}


def _batch_of_endpoint(config: Config) -> Value:
    at_once = config.engine.endpoint.concurrency
    note = (
        f"questions in one request, as the harness counts; up to {at_once} requests at once",
        f"вопросов в одном запросе, как считает харнесс; до {at_once} запросов одновременно",
    )
    return Value("1", "engine.kind", note=note)


def _codebase(manifest: Manifest) -> Value:
    """Return this project's commit and, shortened, the revisions of the benchmark's data."""
    code, version = manifest.codebase, manifest.versions.get("pipeline")
    if code:
        parts = [code.commit[:7] + ("+modified" if code.modified else "")]
    elif version:
        parts = [f"pipeline {version}"]
    else:
        return Value()
    for task, revision in manifest.datasets.dataset_revisions.items():
        kind, _, digest = revision.rpartition(":")
        parts.append(f"{task} {kind}{':' if kind else ''}{digest[:12]}")
    return Value("; ".join(parts), "codebase, datasets")


def _of_model(config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return what the engine reported and the model's files contain about the model."""
    found = {"precision": _engine_value(manifest, "dtype")}
    quantization = _engine_value(manifest, "quantization").text
    if quantization is not None:
        dtype = found["precision"].text
        ru = f"{quantization} (вычисления в {dtype})"
        found["precision"] = Value(f"{quantization} (computed in {dtype})", "engine.quantization", ru)
    sizes = _engine_values(manifest, "num_parameters")
    if len(sizes) == 1:
        found["model_size"] = Value(_size(int(sizes[0])), "engine.num_parameters")
    architecture = _engine_value(manifest, "architecture")
    if architecture.text is not None:
        known = {parts: _engine_value(manifest, name).text for name, parts in SHAPE.items()}
        en, ru = (", ".join(f"{parts[i]} {n}" for parts, n in known.items() if n is not None) for i in (0, 1))
        found["architecture_description"] = Value(
            f"{architecture.text}: {en}", "engine.architecture", f"{architecture.text}: {ru}"
        )
    if config.engine.kind == "endpoint":
        origin = "engine.served_model" if manifest.engine else "engine.endpoint.model"
        found["model_name"] = Value(evaluated_model(config, manifest), origin)
    elif manifest.datasets.model_revision:  # only a hub model has a commit
        path = str(config.model.path)
        found["model_name"] = Value(path.rpartition("/")[2], "model.path")
        found["model_link"] = Value(f"https://huggingface.co/{path}", "model.path")
    return found


def _engine_values(manifest: Manifest, name: str) -> list[str]:
    """Return the distinct values of an entry of the engine information over all replicas."""
    replicas = (info.to_flat() for info in manifest.engine.values())
    return list(dict.fromkeys(str(info[name]) for info in replicas if info.get(name) not in (None, "")))


def _engine_value(manifest: Manifest, name: str) -> Value:
    """Return an entry of the engine information; distinct values of the replicas are joined by commas."""
    return Value(", ".join(_engine_values(manifest, name)) or None, f"engine.{name}")


def _size(num_parameters: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if num_parameters >= scale:
            return f"{num_parameters / scale:.1f}{unit}"
    return str(num_parameters)


def _of_prompt(run: ArtifactStore, config: Config, manifest: Manifest) -> dict[str, Value]:
    per_task = (f"{task} - {notation(config.generation)};" for task in config.active_tasks)
    note = None
    if config.engine.kind == "endpoint":
        note = (
            "what is not named here the server may set by itself, from the model's generation_config.json",
            "что здесь не названо, сервер может задать сам, по generation_config.json модели",
        )
    # The form shows one line: the published submission separates its tasks with the characters `\n`.
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
    """Return the sampling parameters in the form's notation: `do_sample=false;until=["</s>"];max_gen_toks=10000`."""
    parts = {name: value for name, value in harness_arguments(generation).items() if (name, value) != ("top_k", 0)}
    if generation.repeats_by_split["test"] > 1:  # what is submitted
        parts["repeats"] = generation.repeats_by_split["test"]
    return ";".join(
        f"{name}={json.dumps(value, ensure_ascii=False, separators=(',', ':'))}" for name, value in parts.items()
    )


def _results(run: ArtifactStore, config: Config) -> dict[str, Value]:
    """Return the domains' scores on the whole test split, if all golds are known, and the fields that the site sets.

    A domain's score is not that of the leaderboard, and is left out, if the run is limited to the first rows, lacks one
    of the domain's tasks, or has an announced task.
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
    """Return the fields of `BEYOND`, which a reproduction of the run needs; those that do not apply are left out."""
    prompts = manifest.datasets
    lines = [f"{task}: {revision}" for task, revision in prompts.dataset_revisions.items()]
    limits = [] if config.limit is None else [f"limit={config.limit}"]
    limits += [] if "test" in config.splits else [f"splits={json.dumps(list(config.splits))}"]
    limits += [f"only={json.dumps(list(config.only))}"] if config.only else []
    kwargs, is_vllm = config.prompt.template_kwargs, config.engine.kind == "vllm"
    found = {
        "coverage": Value("; ".join(limits) or None, "limit, splits, only"),
        "submission_mode": Value(config.submission.mode, "submission.mode"),
        "server": _engine_value(manifest, "server"),
        "served_model": _engine_value(manifest, "served_model"),
        "answered_by": _engine_value(manifest, "answered_by"),
        "model_revision": Value(prompts.model_revision, "datasets.model_revision"),
        "model_fingerprint": Value(manifest.model_fingerprint if is_vllm else None, "model_fingerprint"),
        "data_revisions": Value("\n".join(lines) or None, "datasets"),
        "chat_template_sha256": Value(prompts.chat_template_sha256, "datasets.chat_template_sha256"),
        "template_fingerprint": Value(manifest.template_fingerprint, "template_fingerprint"),
        "template_kwargs": Value(json.dumps(kwargs, ensure_ascii=False) if kwargs else None, "prompt.template_kwargs"),
        "system_prompt": Value(config.prompt.system, "prompt.system"),
        "reasoning_parser": Value(config.reasoning_parser if is_vllm else None, "reasoning_parser"),
        "gpu_driver": _engine_value(manifest, "gpu_driver"),
    }
    return {name: value for name, value in found.items() if value.text is not None}
