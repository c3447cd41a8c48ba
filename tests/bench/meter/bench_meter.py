"""A vLLM plugin that records the begin, the end and the CPU time of each step of the model.

All ways of driving vLLM execute the same steps. The duration of a step depends on the engine and the machine; the time
between steps and their number depend on the way. vLLM loads the plugin in its worker when this directory is on
PYTHONPATH; it records only if `BENCH_STEPS` names a directory.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

STEP = struct.Struct("ddd")
"""Begin and end by `time.monotonic()`, and CPU seconds in between.

The CPU time is that of the stepping thread: all of it where vLLM computes with one thread, as on two cores.
"""


def install() -> None:
    """Wrap the two calls of the worker that make up a step: the model's pass and the sampling after it."""
    directory = os.environ.get("BENCH_STEPS")
    if not directory:
        return
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    if hasattr(WorkerWrapperBase, "metered"):  # vLLM loads its plugins more than once
        return
    passed = WorkerWrapperBase.execute_model

    def execute_model(self: Any, scheduled: Any) -> Any:
        if not hasattr(self, "meter"):
            self.meter = Meter(directory)
            self.worker.sample_tokens = self.meter.around(self.worker.sample_tokens)
        self.meter.begin()
        return passed(self, scheduled)

    WorkerWrapperBase.execute_model = execute_model
    WorkerWrapperBase.metered = True


class Meter:
    """Records the steps of one worker. Each is written as it ends: the process may be stopped or killed at any time."""

    def __init__(self, directory: str) -> None:
        self._file = os.open(f"{directory}/{os.getpid()}.steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._began = self._spent = 0.0

    def begin(self) -> None:
        self._began, self._spent = time.monotonic(), time.thread_time()

    def around(self, sample_tokens: Any) -> Any:
        def sampled(grammar: Any) -> Any:
            tokens = sample_tokens(grammar)
            os.write(self._file, STEP.pack(self._began, time.monotonic(), time.thread_time() - self._spent))
            return tokens

        return sampled
