"""Preparing in a process of its own does what preparing here does, and ends when it should."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import wait_until

from pipeline import orchestrator
from pipeline.config.loading import compose
from pipeline.errors import DataError, ModelError
from pipeline.orchestrator import execute
from pipeline.prepare import prepare, subprocess_stage
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture(autouse=True)
def prepare_here():
    """Prepare beside, unlike all other tests of this process."""


@pytest.fixture
def begun(monkeypatch):
    """The processes that were begun."""
    found = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(subprocess_stage.subprocess, "Popen", Noted)
    return found


@pytest.fixture
def served(words, endpoint):
    """A command line that needs no tokenizer, whose import takes seconds."""
    return [*words, *endpoint]


def stage_of(run):
    stage = run.artifact("prompts", PROMPT_SCHEMA)
    return stage.metadata, stage.dataset().to_table().sort_by("id").to_pylist()


def ignore(_):
    pass


def prepare_in_subprocess(config, run, *, on_metadata=ignore, meanwhile=lambda: None):
    subprocess_stage.prepare_in_subprocess(config, run, on_metadata=on_metadata, meanwhile=meanwhile)


def test_the_stage_is_the_one_that_is_prepared_here(words, run, tmp_path):
    config, heard = compose(words), []
    prepare_in_subprocess(config, run, on_metadata=heard.append)
    here = ArtifactStore.open(str(tmp_path / "here"))
    prepare(config, here)
    assert stage_of(run) == stage_of(here)
    assert [each.to_flat() for each in heard] == [stage_of(here)[0]]


def test_what_is_refused_is_the_same_line(served, run, begun):
    config = compose([*served, "tasks.agro.dataset=gone/nowhere"])
    with pytest.raises(DataError) as here:
        prepare(config, run)
    with pytest.raises(DataError) as there:
        prepare_in_subprocess(config, run)
    assert str(there.value) == str(here.value)
    assert [each.poll() is None for each in begun] == [False]


def test_facts_that_are_refused_leave_nothing_and_no_process(served, run, begun):
    def refuse(_):
        raise ModelError("not this one")

    with pytest.raises(ModelError, match="not this one"):
        prepare_in_subprocess(compose(served), run, on_metadata=refuse)
    assert run.directories() == []
    assert begun[0].poll() is not None


def test_an_interruption_ends_the_process(served, run, begun):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_in_subprocess(compose(served), run, on_metadata=interrupt)
    assert begun[0].poll() is not None
    assert run.directories() == []


def test_what_is_done_meanwhile_does_not_wait_for_the_facts(served, run):
    heard = []
    prepare_in_subprocess(
        compose(served), run, on_metadata=lambda _: heard.append("facts"), meanwhile=lambda: heard.append("it")
    )
    assert heard == ["it", "facts"]


def test_a_run_imports_ray_meanwhile(served, tmp_path, monkeypatch):
    def fail():
        raise MemoryError("ray is too large")

    monkeypatch.setattr(orchestrator, "load", fail)
    with pytest.raises(MemoryError, match="ray is too large"):
        execute(compose([*served, f"output_dir={tmp_path}", "run_id=one"]))
    assert not (tmp_path / "run=one" / "prompts").exists()


def test_what_fails_meanwhile_ends_the_process(served, run, begun):
    def fail():
        assert begun[0].poll() is None
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        prepare_in_subprocess(compose(served), run, meanwhile=fail)
    assert begun[0].poll() is not None
    assert run.directories() == []


def test_ctrl_c_is_the_other_process_s_to_decide(served, run, begun):
    def heard(_):
        begun[0].send_signal(signal.SIGINT)

    prepare_in_subprocess(compose(served), run, on_metadata=heard)
    assert stage_of(run)[1]


def test_a_signal_at_its_exit_writes_nothing_into_the_log():
    code = (
        "import atexit, os, signal\nfrom pipeline.prepare import subprocess_stage\n"
        "subprocess_stage._serve = lambda number: None\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "subprocess_stage.main(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_process_that_is_killed_is_told(served, run, begun):
    with pytest.raises(RuntimeError, match=r"has ended with -9: see logs/driver\.log"):
        prepare_in_subprocess(compose(served), run, on_metadata=lambda _: begun[0].kill())


def test_a_fault_of_our_own_comes_with_its_traceback(served, run):
    config = compose(served)
    object.__setattr__(config, "splits", None)
    with pytest.raises(RuntimeError, match=r"(?s)preparing has failed:.*Traceback.*stage\.py.*TypeError"):
        prepare_in_subprocess(config, run)


def test_it_ends_when_the_process_that_began_it_is_gone(served, run):
    code = (
        "import os, subprocess, sys\nfrom pipeline.config.loading import compose\n"
        "from pipeline.prepare import subprocess_stage\n"
        "from pipeline.storage.artifacts import ArtifactStore\n"
        "class Told(subprocess.Popen):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        print(self.pid, flush=True)\n"
        "subprocess_stage.subprocess.Popen = Told\n"
        "config, run = compose(sys.argv[2:]), ArtifactStore.open(sys.argv[1])\n"
        "subprocess_stage.prepare_in_subprocess(config, run, on_metadata=lambda facts: os._exit(7), meanwhile=int)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, run.root, *served], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists())
    assert run.directories() == []


def test_the_driver_of_a_whole_run_imports_no_torch(words, tmp_path):
    code = (
        "import sys\nfrom pipeline.config.loading import compose\nfrom pipeline.orchestrator import execute\n"
        "from scripted import ScriptedFactory\n"
        "execute(compose(sys.argv[1:]), ScriptedFactory())\n"
        "found = {'torch', 'transformers', 'vllm', 'datasets'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    line = [sys.executable, "-c", code, *words, f"output_dir={tmp_path}", "run_id=one", "cluster.address=local"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prompts = stage_of(ArtifactStore.open(str(tmp_path / "run=one")))[1]
    assert all(row["num_prompt_tokens"] for row in prompts)
