"""What a run measured of its software, its hardware and its model, as the manifest holds it.

In: a configuration and a manifest's content, in which each replica's engine has told its facts. Out: the form's values.
"""

from __future__ import annotations

from pipeline.config.schema import Config
from pipeline.publish.card.fields import Value
from pipeline.runs.manifest import Manifest

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


def of_software(config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return what the run was made with: the engine's own software, not the driver's."""
    found = {name: engine_value(manifest, name) for name in ("torch", "cuda", "transformers")}
    if found["cuda"].text is None and engine_value(manifest, "device").text == "cpu":
        found["cuda"] = Value("none", "engine.device", "нет", ("torch for the CPU", "torch для CPU"))
    gpus = manifest.hardware.gpus
    if gpus is not None:
        found["gpus"] = Value("; ".join(gpus) or "0 (CPU)", "hardware.gpus")
    found |= {"codebase": _codebase(manifest), "seed": Value(str(config.seed), "seed")}
    found["context_size"] = engine_value(manifest, "max_model_len")
    if config.engine.kind == "endpoint":
        return found | {"engine": Value("local-chat-completions", "engine.kind"), "batch": _batch_of_endpoint(config)}
    version = engine_value(manifest, "vllm").text
    batch = engine_value(manifest, "max_num_seqs")
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


def of_model(config: Config, manifest: Manifest) -> dict[str, Value]:
    """Return what the engine and the model's own files tell of the model."""
    found = {"precision": engine_value(manifest, "dtype")}
    quantization = engine_value(manifest, "quantization").text
    if quantization is not None:
        dtype = found["precision"].text
        ru = f"{quantization} (вычисления в {dtype})"
        found["precision"] = Value(f"{quantization} (computed in {dtype})", "engine.quantization", ru)
    sizes = _engine_values(manifest, "num_parameters")
    if len(sizes) == 1:
        found["model_size"] = Value(_size(int(sizes[0])), "engine.num_parameters")
    architecture = engine_value(manifest, "architecture")
    if architecture.text is not None:
        known = {parts: engine_value(manifest, name).text for name, parts in SHAPE.items()}
        en, ru = (", ".join(f"{parts[i]} {n}" for parts, n in known.items() if n is not None) for i in (0, 1))
        found["architecture_description"] = Value(
            f"{architecture.text}: {en}", "engine.architecture", f"{architecture.text}: {ru}"
        )
    if manifest.datasets.model_revision:  # only a model of the hub has a commit
        path = str(config.model.path)
        found["model_name"] = Value(path.rpartition("/")[2], "model.path")
        found["model_link"] = Value(f"https://huggingface.co/{path}", "model.path")
    return found


def _engine_values(manifest: Manifest, name: str) -> list[str]:
    """Return the different values that the replicas' engines gave for a fact."""
    replicas = (info.to_flat() for info in manifest.engine.values())
    return list(dict.fromkeys(str(info[name]) for info in replicas if info.get(name) not in (None, "")))


def engine_value(manifest: Manifest, name: str) -> Value:
    """Return what the engines said of one thing; several values when they differ."""
    return Value(", ".join(_engine_values(manifest, name)) or None, f"engine.{name}")


def _size(num_parameters: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if num_parameters >= scale:
            return f"{num_parameters / scale:.1f}{unit}"
    return str(num_parameters)
