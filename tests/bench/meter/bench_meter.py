"""A plugin of vLLM that notes when each step of the model began, when it ended, and the processor's time that it took.

All ways of driving vLLM end in the same steps. What a step takes is the engine's and the machine's; what lies between
steps, and their number, is what a way adds. vLLM loads the plugin in its worker when this folder is on PYTHONPATH; it
writes only where `BENCH_STEPS` names a folder.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any

STEP = struct.Struct("ddd")
"""Begin and end by `time.monotonic()`, and the seconds of the processor in between.

Those of the thread that steps: all of them where vLLM computes with one thread, as it does on two cores.
"""


def install() -> None:
    """Wrap the worker's two calls that make a step: the model's pass, and the sampling that follows it."""
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
    """The steps of one worker, written as they end: the process may be stopped or killed at any time."""

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
