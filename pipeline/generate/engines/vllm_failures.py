"""Why vLLM did not start or crashed: its own reason, and the configuration key to change.

In: the exception that this process saw, and what the replica's log has received since the engine was started. vLLM's
engine runs in processes of its own, which print their errors there and exit. Out: the reason on one line, and the error
to raise. Messages are matched as vLLM 0.32 and the libraries below it word them; each has its source line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ConfigError, ModelError, StartError, UserError
from pipeline.generate.engines.base import TransientStartError
from pipeline.terminal.text import one_line

LONGEST_REASON = 400
"""Characters of a reason that are reported; the log has the rest."""

# v1/engine/core.py:1510-1512, v1/executor/multiproc_executor.py:953, 959, 1063. The traceback follows, and vLLM puts
# the prefix before each of its lines.
_HEADER = re.compile(
    r"^(?P<prefix>\([^)]*pid=\d+\) ERROR [^\]\n]*\] )"
    r"(?:EngineCore failed to start|EngineCore encountered a fatal error"
    r"|WorkerProc failed to start|WorkerProc failed|WorkerProc hit an exception)\.$",
    re.MULTILINE,
)
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<type>[A-Za-z_]\w*)(?::|$)")
_NEXT_EXCEPTION = ("The above exception", "During handling", "Traceback ")

_SEE_LOG = ("Engine core initialization failed", "Frontend process failed")  # v1/engine/utils.py:1427, 1432

_TRANSIENT = re.compile(
    # v1/worker/utils.py:763, v1/worker/cpu_worker.py:83: the memory of a killed engine is still being freed
    r"Free memory on device .+ is less than desired GPU memory utilization"
    r"|Available memory on node .+ is less than desired CPU memory utilization"
    r"|429 Too Many Requests"  # huggingface_hub/utils/_http.py:969
    r"|Server error '5\d\d "  # httpx2/_models.py, raise_for_status
    r"|\[Errno 116\] Stale file handle|\[Errno 5\] Input/output error"  # NFS
)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A message of vLLM, the key that it is about, and the fix; `{}` in the fix is the pattern's group."""

    pattern: str
    section: str
    field: str
    fix: str


_REFUSALS = (
    _Refusal(  # config/model.py:2646
        r"User-specified max_model_len \(\d+\) is greater than the derived max_model_len \(\w+=(\d+)",
        "model",
        "context_size",
        "set at most {}",
    ),
    _Refusal(  # v1/core/kv_cache_utils.py:1023, 1030
        r"To serve at least one request with the model's max seq len .+ estimated maximum model length is (\d+)",
        "model",
        "context_size",
        "set at most {}, or increase engine.gpu_memory_utilization or engine.tensor_parallel_size",
    ),
    _Refusal(  # the same, where not even one block fits
        r"To serve at least one request with the model's max seq len",
        "model",
        "context_size",
        "decrease it, or increase engine.gpu_memory_utilization or engine.tensor_parallel_size",
    ),
    _Refusal(  # config/compilation.py:1519
        r"max_num_seqs \(\d+\) exceeds available Mamba cache blocks \((\d+)\)",
        "engine",
        "max_num_seqs",
        "set at most {}, or increase engine.gpu_memory_utilization",
    ),
    _Refusal(  # v1/core/kv_cache_utils.py:1011
        r"No available memory for the cache blocks",
        "engine",
        "gpu_memory_utilization",
        "increase it, or use more GPUs a replica: engine.tensor_parallel_size",
    ),
    _Refusal(  # v1/worker/utils.py:763, v1/worker/cpu_worker.py:83
        r"(?:Free memory on device|Available memory on node) .+ is less than desired",
        "engine",
        "gpu_memory_utilization",
        "decrease it, or end what else uses this memory",
    ),
    _Refusal(  # model_executor/models/registry.py:1181-1208, transformers/models/auto/configuration_auto.py:432
        r"Model architectures? .+ (?:are not supported for now|failed to be inspected"
        r"|is not supported anymore|is not supported in-tree anymore)"
        r"|.+Transformers does not recognize this architecture",
        "model",
        "path",
        "this vLLM does not have the model's architecture: install one that has it",
    ),
)


def crash_cause(error: BaseException, log: str) -> str:
    """Return the root cause of a running engine's crash: exception type and message, on one line."""
    return _short(logged_cause(log) or _text(error))


def start_error(config: Config, error: Exception, log: str, where: str) -> UserError | TransientStartError:
    """Return the error to raise when vLLM does not start.

    Args:
        config: The run's configuration.
        error: What vLLM raised in this process.
        log: What the log has received since; vLLM's processes have ended, so their errors are in it.
        where: The log's path, for the message.

    Returns:
        A `TransientStartError` when another start may succeed, a `StartError` when the reason is none of vLLM's known
        refusals, else an error that names the key to change.
    """
    chain = [_text(each) for each in _chain(error)]
    if chain[0].partition(": ")[2].startswith(_SEE_LOG):
        chain = [logged_cause(log) or chain[0]]
    refused = _refused(config, error, chain, where)
    return TransientStartError(refused) if any(map(_TRANSIENT.search, chain)) else refused


def _refused(config: Config, error: Exception, chain: list[str], where: str) -> UserError:
    at = f" ({where})" if where else ""
    for refusal in _REFUSALS:
        for text in chain:
            found = re.search(refusal.pattern, text)
            if found is not None:
                key = f"{refusal.section}.{refusal.field}={getattr(getattr(config, refusal.section), refusal.field)!r}"
                sentence = text[found.start() :].partition(". ")[0]
                kind = ModelError if refusal.section == "model" else ConfigError
                return kind(
                    f"{key}: vLLM does not start: {_short(sentence)}: {refusal.fix.format(*found.groups())}{at}"
                )
    reason = _short(chain[0]) if chain[-1] in chain[0] else f"{_short(chain[0])}; its cause: {_short(chain[-1])}"
    name = _invalid_argument(error)
    if name in config.engine.extra:
        return ConfigError(f"engine.extra.{name}={config.engine.extra[name]!r}: vLLM does not start: {reason}{at}")
    kind = ModelError if any(map(_validation_errors, _chain(error))) else StartError
    return kind(f"model.path={config.model.path!r}: vLLM does not start: {reason}{at}")


def logged_cause(log: str) -> str | None:
    """Return the first exception that vLLM's processes logged with their end, as "type: message", or None.

    Python prints a chain of exceptions from its root, so the first exception of the first traceback is the root cause.
    """
    log = log.replace("\r\n", "\n")  # vLLM ends the inner lines of a message so
    header = _HEADER.search(log)
    if header is None:
        return None
    found: list[str] = []
    for line in log[header.end() + 1 :].splitlines():
        text = line.removeprefix(header["prefix"])
        if not found:
            if line.startswith(header["prefix"]) and not text.startswith(_NEXT_EXCEPTION) and _EXCEPTION.match(text):
                found.append(_EXCEPTION.sub(lambda match: match[0].rpartition(".")[2], text, count=1))
        elif not line.startswith(header["prefix"]) or text.startswith(_NEXT_EXCEPTION):
            break
        else:
            found.append(text)  # the message has several lines
    return " ".join(" ".join(found).split()) or None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what led to it, as a traceback shows them, from the last to the first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _text(error: BaseException) -> str:
    """Return an exception's type and message on one line; of a pydantic error the message of its validator."""
    errors = _validation_errors(error)
    if errors:
        first = errors[0]
        place = ".".join(map(str, first["loc"]))
        message = str(first["msg"]).removeprefix("Value error, ")
        return " ".join(f"{type(error).__name__}: {place + ': ' if place else ''}{message}".split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def _validation_errors(error: BaseException) -> list[Any]:
    import pydantic

    return list(error.errors()) if isinstance(error, pydantic.ValidationError) else []


def _invalid_argument(error: BaseException) -> str:
    """Return the name of the argument that a pydantic error is about, or ""."""
    errors = _validation_errors(error)
    return str(errors[0]["loc"][0]) if errors and errors[0]["loc"] else ""


def _short(text: str) -> str:
    return one_line(text, LONGEST_REASON).rstrip(". ")
