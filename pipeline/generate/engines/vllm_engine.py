"""vLLM in this process: `AsyncLLM`, explicit sampling, vLLM's own reasoning parser.

In: token ids. Out: text, split into reasoning and content, with token counts. vllm is imported when an engine starts,
so that everything else works where it is not installed. Try it: `python -m pipeline.run conf=demo`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ConfigError, ModelError
from pipeline.generate.cluster import require_whole_stages
from pipeline.generate.engines.base import Engine, EngineCrashed, EngineStats, Output, Request, RowError
from pipeline.generate.engines.hardware import gpu_info, num_parameters
from pipeline.generate.engines.reasoning import Parser, make_parser, parser_class_of
from pipeline.generate.engines.vllm_arguments import engine_arguments, require_batch_invariance, sampling_arguments
from pipeline.generate.engines.vllm_failures import crash_cause, start_error
from pipeline.generate.engines.vllm_start import moe_config
from pipeline.generate.engines.vllm_stats import StatCounts, ray_stat_logger, stat_logger
from pipeline.runs.manifest import EngineInfo
from pipeline.terminal.console import LogPosition

CLOSE_S = 10.0
"""Seconds that vLLM's processes have to end on their own."""

LONGEST_CLOSE_S = 30.0
"""Seconds after which an engine that is still ending is no longer waited for; each thread's stack is logged."""

WATCH_S = 5.0
"""Seconds between two checks of the engine; a crash that vLLM reports is noticed at once."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VllmFactory:
    """Starts the configured vLLM.

    `spans_nodes` is that of `cluster.Placement`; with `exports_metrics` vLLM's own metrics are exported through Ray.
    """

    config: Config
    spans_nodes: bool = False
    exports_metrics: bool = False

    def __call__(self) -> Engine:
        """Start vLLM and wait until it can generate.

        Raises:
            ModelError: vLLM is not installed, or refuses the model.
            ConfigError: vLLM refuses an argument or does not know the reasoning_parser, or engine.batch_invariant
                needs other hardware, or other jobs' GPUs split a tensor parallel group of the replica over nodes.
            StartError: vLLM fails for another reason than its known refusals.
            TransientStartError: The model's files or the device's memory are not available now.
        """
        # No usage statistics leave the machine: they would show what is benchmarked, and how often.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # vLLM's modules read it when they are imported. The recorded configuration overrides the caller's environment.
        os.environ["VLLM_BATCH_INVARIANT"] = str(int(self.config.engine.batch_invariant))
        try:
            import vllm.v1.engine.async_llm  # noqa: F401
        except ImportError as error:
            raise ModelError(
                f"engine.kind=vllm: vllm cannot be imported ({error}): install the extra gpu or cpu"
            ) from error
        if self.config.engine.batch_invariant:
            require_batch_invariance()
        if self.spans_nodes:
            require_whole_stages(self.config.engine.tensor_parallel_size)
        return self._started(parser_class_of(self.config))

    def _started(self, parser_class: Any) -> Engine:
        """Start vLLM, once it is imported.

        Separate from the import, because a module that vllm imports keeps an exception, and with it every frame that
        was on the stack: an engine in one of them would never be freed.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM

        log, counts = LogPosition.now(), StatCounts()
        try:
            engine = AsyncLLM.from_engine_args(
                engine_arguments(self.config, spans_nodes=self.spans_nodes),
                start_engine_loop=True,
                stat_loggers=[stat_logger(counts), *([ray_stat_logger()] if self.exports_metrics else [])],
            )
        except ConfigError:
            raise
        except Exception as error:  # whatever the cause, no row can be generated
            raise start_error(self.config, error, log.text(), log.name) from error
        try:
            parser = make_parser(self.config, parser_class, engine.get_tokenizer())
            sampling = sampling_arguments(self.config)
            return VllmEngine(engine, parser, sampling, SamplingParams, RequestOutputKind.FINAL_ONLY, log, counts)
        except BaseException:
            engine.shutdown(timeout=CLOSE_S)
            raise


class VllmEngine:
    """A running vLLM. Made by `VllmFactory`."""

    def __init__(
        self,
        engine: Any,
        parser: Parser,
        sampling: dict[str, Any],
        sampling_params: Any,
        kind: Any,
        log: LogPosition | None = None,
        counts: StatCounts | None = None,
    ) -> None:
        self._engine, self._parser = engine, parser
        self._log, self._counts = log or LogPosition.now(), counts
        self._sampling = {**sampling, "skip_special_tokens": parser.drops_special_tokens, "output_kind": kind}
        self._sampling_params = sampling_params
        self._watch = Watch(self._has_crashed)

    @property
    def info(self) -> EngineInfo:
        """Return versions, precision, device and the model's shape, as the running engine resolved them."""
        import torch
        import transformers
        import vllm

        config, model = self._engine.vllm_config, self._engine.model_config
        device = str(config.device_config.device_type)
        info = replace(
            _shape(model),
            **_serving(config),
            vllm=vllm.__version__,
            torch=torch.__version__,
            transformers=transformers.__version__,
            cuda=torch.version.cuda,
            device=device,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=model.max_model_len,
            moe_config=moe_config(self._log.text()),
        )
        if model.quantization is not None:
            info = replace(info, quantization=str(model.quantization))  # packed weights do not show their number
        else:
            counted = num_parameters(model.model, model.revision, config.load_config.download_dir)
            info = replace(info, num_parameters=counted)
        if device != "cuda":
            return info
        gpus = gpu_info(config.parallel_config.world_size, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return EngineInfo.from_flat(info.to_flat() | gpus.to_flat())

    @property
    def stats(self) -> EngineStats:
        """What vLLM has counted so far."""
        return self._counts.stats if self._counts is not None else EngineStats()

    def sampling(self, request: Request) -> Any:
        """Return vLLM's `SamplingParams` for one request."""
        return self._sampling_params(seed=request.seed, **self._sampling)

    async def generate(self, request: Request) -> Output:
        """Return the generation for `request.prompt_token_ids`.

        Raises:
            RowError: vLLM fails this request, or ends it without stop or length.
            EngineCrashed: vLLM has crashed.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        params = self.sampling(request)
        # Marked as tokens, the prompt goes to the engine directly; vLLM passes a bare list of ids through a thread.
        prompt: dict[str, Any] = {"type": "token", "prompt_token_ids": request.prompt_token_ids}
        if request.cache_salt is not None:
            prompt["cache_salt"] = request.cache_salt
        final = None
        try:
            with self._watch.over_this_task():
                async for output in self._engine.generate(prompt, params, request.request_id):
                    final = output
        except EngineDeadError as error:
            raise self._crashed(error) from error
        except asyncio.CancelledError as error:
            if self._has_crashed():  # cancelled by the watch, or by vLLM, which closes sockets that are waited for
                raise self._crashed(RuntimeError("vLLM's engine ended without a message")) from error
            raise
        except Exception as error:
            if self._has_crashed():
                raise self._crashed(error) from error
            cause = error.__cause__ or error
            raise RowError(f"{type(cause).__name__}: {cause}") from error
        if final is None:
            raise RowError("vLLM ended the request without an output")
        generated = final.outputs[0]
        if generated.finish_reason not in ("stop", "length"):
            raise RowError(f"vLLM ended the request with finish_reason={generated.finish_reason!r}")
        reasoning, content = self._parser.split(generated.text)
        return Output(
            completion=generated.text,
            reasoning=reasoning,
            content=content,
            finish_reason=generated.finish_reason,
            num_prompt_tokens=len(final.prompt_token_ids),
            num_output_tokens=len(generated.token_ids),
        )

    def _crashed(self, error: BaseException) -> EngineCrashed:
        return EngineCrashed(crash_cause(error, self._log.text()))

    def _has_crashed(self) -> bool:
        return self._engine is None or bool(self._engine.errored)

    async def is_serving(self) -> bool:
        """Return True: an engine that cannot answer has crashed, which is an error of its own."""
        return True

    def close(self) -> None:
        """End vLLM's own processes; those that take longer than `LONGEST_CLOSE_S` are left to end on their own.

        Called from another thread than the event loop's.
        """
        ending = threading.Thread(target=self._end, name="end-vllm", daemon=True)
        ending.start()
        ending.join(LONGEST_CLOSE_S)
        if ending.is_alive():
            # Shutdown once took 5 minutes and once 15. The second time waitpid was spinning in the kernel, which was
            # removing the /proc entries of an ended process. All rows are on disk, so nothing has to wait.
            logger.warning("vLLM has not ended after %.0f s; it is left to end by itself", LONGEST_CLOSE_S)
            faulthandler.dump_traceback(file=2)

    def _end(self) -> None:
        """End vLLM's processes, however long it takes; an error here goes to the log."""
        handler = self._engine.output_handler
        if handler is not None:
            # Otherwise it takes the engine's end for a crash, and logs an error in a run that succeeded.
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self._engine.shutdown(timeout=CLOSE_S)
        # vLLM shuts down once more when the object is freed: do that now, not during the interpreter's shutdown.
        self._engine = None
        gc.collect()


class Watch:
    """Cancels the tasks that wait for an engine when `has_crashed` reports that it is gone. Used on one event loop.

    vLLM 0.32 reports a crash to the requests whose responses its client already listens for. The client listens from
    the first request on, and a request that arrives while the engine crashes waits forever (v1/engine/core_client.py,
    `monitor_engine_cores`: no callback, a flag that later requests read). So the flag is polled.
    """

    def __init__(self, has_crashed: Callable[[], bool]) -> None:
        self._has_crashed = has_crashed
        self._waiting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def over_this_task(self) -> Iterator[None]:
        """Cancel the current task if the engine crashes before the block ends."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._check)
        try:
            yield
        finally:
            self._waiting.discard(task)

    def _check(self) -> None:
        if not self._waiting:
            self._timer = None  # the next request starts it again
            return
        # Scheduled before the check, and after a crash too: a task may catch its cancellation and wait again.
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._check)
        if self._has_crashed():
            for task in self._waiting:
                task.cancel()


def _serving(config: Any) -> dict[str, Any]:
    """Return what decides speed and batches, as vLLM resolved it, and the KV cache that its profiling run found.

    The engine's process reports the cache's size when it is ready (`_apply_ready_response`, v1/engine/core_client.py).
    """
    scheduler, cache = config.scheduler_config, config.cache_config
    graphs = config.compilation_config.cudagraph_capture_sizes or []
    return {
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "prefix_caching": cache.enable_prefix_caching,
        "async_scheduling": scheduler.async_scheduling,
        "largest_cuda_graph": max(graphs, default=None),
        "cuda_graph_sizes": ", ".join(map(str, sorted(graphs))) or None,
        "cuda_graph_mode": getattr(config.compilation_config.cudagraph_mode, "name", None),
        "kv_cache_dtype": str(cache.cache_dtype),
        "kv_block_size": cache.block_size,
        "num_kv_blocks": cache.num_gpu_blocks,
        "num_kv_tokens": getattr(cache, "kv_cache_size_tokens", None),
        "kv_concurrency": getattr(cache, "kv_cache_max_concurrency", None),
    }


def _shape(model: Any) -> EngineInfo:
    """Return the model's architecture as vLLM read it from its config.json; what does not apply is None."""

    def number(value: Any) -> int | None:
        return int(value) if value else None

    return EngineInfo(
        architecture=", ".join(model.architectures),
        num_layers=number(model.get_total_num_hidden_layers()),
        hidden_size=number(model.get_hidden_size()),
        num_attention_heads=number(model.model_arch_config.total_num_attention_heads),
        num_kv_heads=number(model.get_total_num_kv_heads()),
        head_size=number(model.get_head_size()),
        num_experts=number(model.get_num_experts()),
        num_experts_per_token=number(model.get_num_experts_per_tok()),
        vocab_size=number(model.get_vocab_size()),
    )
