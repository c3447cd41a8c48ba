"""A Ray Data pipeline that only sleeps. Measuring something else next to it shows what Ray's presence costs.

It matches the generate stage with one replica: one asynchronous actor and blocks of 16 rows, each block some seconds
long, as many in flight as 64 slots take. Its processes are stopped (SIGSTOP) except within `RayAsleep.awake`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

NUM_BLOCKS, ROWS_PER_BLOCK, BLOCKS_IN_FLIGHT, BLOCK_S = 5000, 16, 5, 2.5


class RayAsleep:
    """The pipeline's driver in a subprocess, stopped from the start."""

    def __init__(self) -> None:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "bench.asleep"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._driver.stdout is not None
        if self._driver.stdout.readline() != "going\n":
            raise RuntimeError("the Ray Data pipeline does not start")
        self._send_signal(signal.SIGSTOP)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the pipeline run within the block."""
        self._send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """Kill the driver and all processes that Ray has started."""
        self._send_signal(signal.SIGKILL)
        self._driver.wait()

    def _send_signal(self, number: signal.Signals) -> None:
        driver = psutil.Process(self._driver.pid)
        for process in (driver, *driver.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def main() -> None:
    """Run the driver; print `going` after the first block."""
    import asyncio

    import pyarrow as pa
    import ray.data

    class Sleeper:
        async def __call__(self, block: pa.Table) -> pa.Table:
            await asyncio.sleep(BLOCK_S)
            return block

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = pa.table({"row": list(range(ROWS_PER_BLOCK))})
    asleep = ray.data.from_arrow([rows] * NUM_BLOCKS).map_batches(
        Sleeper,
        batch_size=ROWS_PER_BLOCK,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=BLOCKS_IN_FLIGHT, max_concurrent_calls_per_actor=BLOCKS_IN_FLIGHT
        ),
        num_cpus=1,
    )
    for number, _ in enumerate(asleep.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
        if number == 0:
            print("going", flush=True)


if __name__ == "__main__":
    main()
