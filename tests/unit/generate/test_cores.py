"""Who runs on which core beside a vLLM that has bound its workers, tried on processes that only sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.generate.cores import Cores

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
ALL = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
BOUND = {min(ALL)} if ALL else set()

SLEEPER = "import os, sys, time; os.sched_setaffinity(0, {cores}); print('up', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@contextmanager
def process(*words: str) -> Iterator[int]:
    """Run Python with these words until the block ends; give its id when it has spoken."""
    child = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline()
        yield child.pid
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def sleeper(cores: set[int]) -> str:
    return SLEEPER.format(cores=cores)


@pytest.fixture
def cores() -> Iterator[Cores]:
    made = Cores()
    yield made
    made.take_back()


def test_all_but_the_bound_leave_its_cores(cores: Cores) -> None:
    with process("-c", sleeper(BOUND)) as bound, process("-c", sleeper(ALL)) as other:
        cores.leave_to_vllm()
        assert os.sched_getaffinity(bound) == BOUND
        assert os.sched_getaffinity(other) == os.sched_getaffinity(0) == ALL - BOUND
    cores.take_back()
    assert os.sched_getaffinity(0) == ALL


def test_every_thread_leaves(cores: Cores) -> None:
    found: list[set[int]] = []
    told = threading.Event()

    def wait() -> None:
        told.wait()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=wait)
    thread.start()
    with process("-c", sleeper(BOUND)):
        cores.leave_to_vllm()
        told.set()
        thread.join()
    assert found == [ALL - BOUND]


def test_what_another_process_has_started_leaves_too(cores: Cores) -> None:
    with process("-c", sleeper(BOUND)), process("-c", PARENT, sleeper(ALL)) as parent:
        (child,) = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        cores.leave_to_vllm()
        assert os.sched_getaffinity(child) == ALL - BOUND


def test_nobody_leaves_where_nothing_is_bound(cores: Cores) -> None:
    with process("-c", sleeper(ALL)) as other:
        cores.leave_to_vllm()
        assert os.sched_getaffinity(other) == os.sched_getaffinity(0) == ALL


def test_nobody_leaves_where_the_bound_take_all_cores(cores: Cores) -> None:
    with process("-c", sleeper(BOUND)), process("-c", sleeper(ALL - BOUND)):
        cores.leave_to_vllm()
        assert os.sched_getaffinity(0) == ALL


def test_an_engine_that_was_started_again_is_left_alone_too(cores: Cores) -> None:
    with process("-c", sleeper(BOUND)):
        cores.leave_to_vllm()
    with process("-c", sleeper(BOUND)) as bound, process("-c", sleeper(ALL)) as other:
        cores.leave_to_vllm()
        assert os.sched_getaffinity(bound) == BOUND
        assert os.sched_getaffinity(other) == ALL - BOUND
