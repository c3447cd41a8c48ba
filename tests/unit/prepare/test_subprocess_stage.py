"""Preparing in a subprocess gives the same result as in this process, and the subprocess exits when it should."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import wait_until

from pipeline.config.loading import compose
from pipeline.errors import DataError, ModelError
from pipeline.generate import connection
from pipeline.orchestrator import execute
from pipeline.prepare import prepare, subprocess_stage
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture(autouse=True)
def prepare_here():
    """Prepare in a subprocess, unlike all other tests: overrides the fixture that prepares in this process."""


@pytest.fixture
def processes(monkeypatch):
    """The subprocesses that were started."""
    found = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(subprocess_stage.subprocess, "Popen", Recorded)
    return found


@pytest.fixture
def served(arguments, endpoint):
    """Command-line arguments that need no tokenizer, whose import takes seconds."""
    return [*arguments, *endpoint]


def prompts_of(run):
    prompts = run.artifact("prompts", PROMPT_SCHEMA)
    return prompts.metadata, prompts.dataset().to_table().sort_by("id").to_pylist()


def ignore(_):
    pass


def prepare_in_subprocess(config, run, *, on_metadata=ignore, meanwhile=lambda: None):
    subprocess_stage.prepare_in_subprocess(config, run, on_metadata=on_metadata, meanwhile=meanwhile)


def test_the_prompts_equal_those_prepared_in_this_process(arguments, run, tmp_path):
    config, received = compose(arguments), []
    prepare_in_subprocess(config, run, on_metadata=received.append)
    here = ArtifactStore.open(str(tmp_path / "here"))
    prepare(config, here)
    assert prompts_of(run) == prompts_of(here)
    assert [each.to_flat() for each in received] == [prompts_of(here)[0]]


def test_an_error_is_the_same_line_as_in_this_process(served, run, processes):
    config = compose([*served, "tasks.agro.dataset=gone/nowhere"])
    with pytest.raises(DataError) as here:
        prepare(config, run)
    with pytest.raises(DataError) as there:
        prepare_in_subprocess(config, run)
    assert str(there.value) == str(here.value)
    assert [each.poll() is None for each in processes] == [False]


def test_rejected_metadata_leaves_no_files_and_no_process(served, run, processes):
    def reject(_):
        raise ModelError("not this one")

    with pytest.raises(ModelError, match="not this one"):
        prepare_in_subprocess(compose(served), run, on_metadata=reject)
    assert run.directories() == []
    assert processes[0].poll() is not None


def test_an_interruption_ends_the_subprocess(served, run, processes):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_in_subprocess(compose(served), run, on_metadata=interrupt)
    assert processes[0].poll() is not None
    assert run.directories() == []


def test_meanwhile_does_not_wait_for_the_metadata(served, run):
    calls = []
    prepare_in_subprocess(
        compose(served), run, on_metadata=lambda _: calls.append("facts"), meanwhile=lambda: calls.append("it")
    )
    assert calls == ["it", "facts"]


def test_a_run_imports_ray_meanwhile(served, tmp_path, monkeypatch):
    def fail():
        raise MemoryError("ray is too large")

    monkeypatch.setattr(connection, "load", fail)
    with pytest.raises(MemoryError, match="ray is too large"):
        execute(compose([*served, f"output_dir={tmp_path}", "run_id=one"]))
    assert not (tmp_path / "run=one" / "prompts").exists()


def test_a_failure_meanwhile_ends_the_subprocess(served, run, processes):
    def fail():
        assert processes[0].poll() is None
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        prepare_in_subprocess(compose(served), run, meanwhile=fail)
    assert processes[0].poll() is not None
    assert run.directories() == []


def test_the_subprocess_ignores_ctrl_c(served, run, processes):
    def interrupt(_):
        processes[0].send_signal(signal.SIGINT)

    prepare_in_subprocess(compose(served), run, on_metadata=interrupt)
    assert prompts_of(run)[1]


def test_a_signal_at_its_exit_writes_nothing_into_the_log():
    code = (
        "import atexit, os, signal\nfrom pipeline.prepare import subprocess_stage\n"
        "subprocess_stage._serve = lambda number: None\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "subprocess_stage.main(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_killed_subprocess_is_reported(served, run, processes):
    with pytest.raises(RuntimeError, match=r"has ended with -9: see logs/driver\.log"):
        prepare_in_subprocess(compose(served), run, on_metadata=lambda _: processes[0].kill())


def test_an_unexpected_exception_is_reported_with_its_traceback(served, run):
    config = compose(served)
    object.__setattr__(config, "splits", None)
    with pytest.raises(RuntimeError, match=r"(?s)preparing has failed:.*Traceback.*stage\.py.*TypeError"):
        prepare_in_subprocess(config, run)


def test_the_subprocess_exits_when_its_parent_is_gone(served, run):
    code = (
        "import os, subprocess, sys\nfrom pipeline.config.loading import compose\n"
        "from pipeline.prepare import subprocess_stage\n"
        "from pipeline.storage.artifacts import ArtifactStore\n"
        "class Printed(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        print(self.pid, flush=True)\n"
        "subprocess_stage.subprocess.Popen = Printed\n"
        "config, run = compose(sys.argv[2:]), ArtifactStore.open(sys.argv[1])\n"
        "subprocess_stage.prepare_in_subprocess(config, run, on_metadata=lambda metadata: os._exit(7), meanwhile=int)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, run.root, *served], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists())
    assert run.directories() == []


@pytest.mark.slow
def test_the_driver_of_a_whole_run_imports_no_torch(arguments, tmp_path):
    code = (
        "import sys\nfrom pipeline.config.loading import compose\nfrom pipeline.orchestrator import execute\n"
        "from scripted import ScriptedFactory\n"
        "execute(compose(sys.argv[1:]), ScriptedFactory())\n"
        "found = {'torch', 'transformers', 'vllm', 'datasets'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    command = [sys.executable, "-c", code, *arguments, f"output_dir={tmp_path}", "run_id=one", "cluster.address=local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prompts = prompts_of(ArtifactStore.open(str(tmp_path / "run=one")))[1]
    assert all(row["num_prompt_tokens"] for row in prompts)
