"""Why vLLM does not start or crashed: its own reason in one line, and the key to change. Logs are real vLLM's."""

from __future__ import annotations

from dataclasses import replace

import pydantic
import pytest

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, ModelError, StartError
from pipeline.generate.engines.base import TransientStartError
from pipeline.generate.engines.vllm_failures import crash_cause, logged_cause, start_error

WORKER = "(VllmWorker-0 pid=26787) ERROR 11-28 06:45:05 [multiproc_executor.py:953] "
CORE = "(EngineCore pid=26172) ERROR 11-28 06:45:10 [core.py:1510] "
FAILED = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}")


def logged(prefix: str, header: str, *exception: str) -> str:
    lines = [
        header,
        "Traceback (most recent call last):",
        '  File "/x/core.py", line 1482, in run',
        "    raise ValueError(",
    ]
    return "\r\n".join(f"{prefix}{line}" for line in (*lines, *exception)) + "\n"


@pytest.fixture
def config(at_root: object) -> Config:  # noqa: ARG001
    return compose(["conf=demo", "engine.extra.block_size=7"])


def core_log(message: str) -> str:
    return "INFO ImportError: nothing that matters\n" + logged(CORE, "EngineCore failed to start.", message)


@pytest.mark.parametrize(
    ("message", "kind", "line"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (262144), (5.14 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (4.3 GiB). Based on the available memory, the "
            "estimated maximum model length is 217536. Try increasing `gpu_memory_utilization` (which also controls "
            "CPU memory on the CPU backend) or decreasing `max_model_len` when initializing the engine. ",
            ModelError,
            "model.context_size=1024: vLLM does not start: To serve at least one request with the model's max seq len "
            "(262144), (5.14 GiB KV cache is needed, which is larger than the available KV cache memory (4.3 GiB): "
            "set at most 217536, or increase engine.gpu_memory_utilization or engine.tensor_parallel_size (a.log)",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (9), (5.14 GiB KV cache is needed, "
            "which is larger than the available KV cache memory (0.3 GiB). Try increasing `gpu_memory_utilization`. ",
            ModelError,
            "model.context_size=1024: vLLM does not start: To serve at least one request with the model's max seq len "
            "(9), (5.14 GiB KV cache is needed, which is larger than the available KV cache memory (0.3 GiB): decrease "
            "it, or increase engine.gpu_memory_utilization or engine.tensor_parallel_size (a.log)",
        ),
        (
            "ValueError: max_num_seqs (512) exceeds available Mamba cache blocks (300). Each decode sequence requires "
            "one Mamba cache block, so CUDA graph capture cannot proceed. Please lower max_num_seqs to at most 300.",
            ConfigError,
            "engine.max_num_seqs=64: vLLM does not start: max_num_seqs (512) exceeds available Mamba cache blocks "
            "(300): set at most 300, or increase engine.gpu_memory_utilization (a.log)",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
            ConfigError,
            "engine.gpu_memory_utilization=0.9: vLLM does not start: No available memory for the cache blocks: "
            "increase it, or use more GPUs a replica: engine.tensor_parallel_size (a.log)",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            StartError,
            "model.path='data/demo/model': vLLM does not start: OutOfMemoryError: CUDA out of memory. Tried to "
            "allocate 2.00 GiB (a.log)",
        ),
    ],
)
def test_a_refusal_of_the_engines_process_names_the_key_to_change(
    config: Config, message: str, kind: type, line: str
) -> None:
    error = start_error(config, FAILED, core_log(message), "a.log")
    assert (type(error), str(error)) == (kind, line)


def test_a_process_that_ended_without_a_message_is_named_with_its_exit_code(config: Config) -> None:
    killed = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}")
    error = start_error(config, killed, "INFO loading\n", "a.log")
    assert isinstance(error, ModelError)
    assert str(error).endswith("Failed core proc(s): {'E': -9} (a.log)")


class Model(pydantic.BaseModel):
    block_size: int = 1
    architectures: str = ""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Model:
        if self.architectures:
            raise ValueError(self.architectures)
        return self


def invalid(**values: object) -> Exception:
    with pytest.raises(pydantic.ValidationError) as caught:
        Model(**values)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "User-specified max_model_len (5000) is greater than the derived max_model_len (max_position_embeddings="
            "1024.0 or model_max_length=None in model's config.json). To allow overriding this maximum, set the env",
            "model.context_size=1024: vLLM does not start: User-specified max_model_len (5000) is greater than the "
            "derived max_model_len (max_position_embeddings=1024.0 or model_max_length=None in model's config.json): "
            "set at most 1024 (a.log)",
        ),
        (
            "Model architectures ['Foo'] are not supported for now. Supported architectures: dict_keys(['A', 'B'])",
            "model.path='data/demo/model': vLLM does not start: Model architectures ['Foo'] are not supported for now: "
            "this vLLM does not have the model's architecture: install one that has it (a.log)",
        ),
        (
            "something that nobody has seen before.",
            "model.path='data/demo/model': vLLM does not start: ValidationError: something that nobody has seen before "
            "(a.log)",
        ),
    ],
)
def test_a_refusal_of_this_process_has_pydantics_own_message(config: Config, message: str, line: str) -> None:
    assert str(start_error(config, invalid(architectures=message), "", "a.log")) == line


def test_only_a_reason_that_is_no_known_refusal_may_be_this_machines(config: Config) -> None:
    unknown = core_log("RuntimeError: CUDA error: uncorrectable ECC error encountered")
    refused = core_log("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`")
    assert type(start_error(config, FAILED, unknown, "a.log")) is StartError
    assert type(start_error(config, FAILED, refused, "a.log")) is ConfigError
    assert type(start_error(config, invalid(architectures="what nobody has seen"), "", "a.log")) is ModelError


def test_an_invalid_value_names_its_key_of_engine_extra(config: Config) -> None:
    error = start_error(config, invalid(block_size="foo"), "", "a.log")
    assert isinstance(error, ConfigError)
    assert str(error).startswith("engine.extra.block_size=7: vLLM does not start: ValidationError: block_size: Input ")
    without = replace(config, engine=replace(config.engine, extra={}))
    assert str(start_error(without, invalid(block_size="foo"), "", "a.log")).startswith("model.path=")


def test_the_cause_of_an_exception_is_in_the_line(config: Config) -> None:
    error = OSError("the config cannot be read")
    error.__cause__ = KeyError("foo")
    found = str(start_error(config, error, "", "a.log"))
    assert found.endswith("does not start: OSError: the config cannot be read; its cause: KeyError: 'foo' (a.log)")


@pytest.mark.parametrize(
    "message",
    [
        "ValueError: Free memory on device cuda:0 (1.2/79.2 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 72.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "ValueError: Available memory on node 0 (8.17/12.84 GiB) on startup is less than desired CPU memory "
        "utilization (1.0, 12.84 GiB). On the CPU backend",
        "OSError: [Errno 116] Stale file handle: '/nfs/model/model-00001.safetensors'",
        "OSError: [Errno 5] Input/output error",
    ],
)
def test_what_may_pass_by_itself_is_transient(config: Config, message: str) -> None:
    error = start_error(config, FAILED, core_log(message), "a.log")
    assert isinstance(error, TransientStartError)
    assert str(error) == str(error.error)
    assert message.partition(": ")[2][:20] in str(error)


def test_a_hub_that_limits_requests_is_transient_wherever_it_is_in_the_chain(config: Config) -> None:
    for text in ("429 Too Many Requests for url: https://x", "Server error '503 Service Unavailable' for url 'https'"):
        error = OSError("We couldn't connect to 'https://huggingface.co' to load the files")
        error.__cause__ = RuntimeError(text)
        assert isinstance(start_error(config, error, "", ""), TransientStartError)
    gone = RuntimeError("Client error '404 Not Found' for url 'https'")
    assert isinstance(start_error(config, gone, "", ""), ModelError)


def test_memory_that_does_not_become_free_names_the_key(config: Config) -> None:
    message = "ValueError: Free memory on device cuda:0 (1.2/79 GiB) on startup is less than desired GPU memory util"
    error = start_error(config, FAILED, core_log(message + "ization (0.92, 72.8 GiB). Decrease"), "a.log")
    assert isinstance(error, TransientStartError)
    assert isinstance(error.error, ConfigError)
    assert str(error).startswith(
        "engine.gpu_memory_utilization=0.9: vLLM does not start: Free memory on device cuda:0 "
    )
    assert str(error).endswith(": decrease it, or end what else uses this memory (a.log)")


def test_the_root_cause_is_the_first_exception_of_the_first_process_that_failed() -> None:
    worker = logged(
        WORKER,
        "WorkerProc failed to start.",
        "torch.AcceleratorError: CUDA error: device-side assert triggered",
        "CUDA kernel errors might be asynchronously reported",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        "RuntimeError: it got worse",
    )
    core = logged(CORE, "EngineCore failed to start.", "Exception: WorkerProc initialization failed")
    found = logged_cause(worker + "(EngineCore pid=1) INFO a line between\n" + core)
    assert found == (
        "AcceleratorError: CUDA error: device-side assert triggered CUDA kernel errors might be asynchronously reported"
    )


def test_a_crash_has_the_cause_that_the_engine_logged_or_what_this_process_saw() -> None:
    log = logged(CORE, "EngineCore encountered a fatal error.", "AssertionError: CPU GDN attention requires BF16.")
    crashed = RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
    assert crash_cause(crashed, log) == "AssertionError: CPU GDN attention requires BF16"
    assert crash_cause(crashed, "INFO all is well\n").startswith("RuntimeError: EngineCore encountered an issue")
