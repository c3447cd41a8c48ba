"""Runs that join the processes of `ray start`: a token, GPUs that come later, and Ray jobs.

The cluster requires a token, has ports and a temporary directory of its own, and is joined by the runs' own processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import ENDPOINT, ROOT, Started, completions, wait_until

from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-" * 2}
VLLM = ("engine.kind=vllm", "model.path=data/demo/model", "engine.replicas=auto", "engine.max_num_seqs=4")
"""Overrides that undo `ENDPOINT`; the scripted engine takes vLLM's place."""


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def ray_start(*arguments: str) -> Iterator[None]:
    """Run `ray start --block` with the token; end all its processes, which form one group."""
    environment = os.environ | TOKEN | {"RAY_USAGE_STATS_ENABLED": "0"}
    # The agent that starts jobs does not run where its port, by default one for all clusters, is in use.
    agent = f"--dashboard-agent-listen-port={free_port()}"
    line = [*RAY, "start", "--block", "--object-store-memory=100000000", agent, *arguments]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(line, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


@dataclass(frozen=True)
class Head:
    """A head without CPUs and GPUs: its address, its directory, and the port of its dashboard."""

    address: str
    directory: Path
    dashboard_port: int

    @property
    def num_drivers(self) -> int:
        """How many drivers have joined."""
        return len(list(self.directory.glob("session_latest/logs/python-core-driver-*")))


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # In /tmp itself: the path of a socket has at most 107 characters.
    found = Head(f"127.0.0.1:{free_port()}", Path(f"/tmp/joining-{os.getpid()}"), free_port())
    has_dashboard = importlib.util.find_spec("aiohttp_cors") is not None
    arguments = (
        *("--head", f"--port={found.address[10:]}", f"--ray-client-server-port={free_port()}", "--num-cpus=0"),
        *("--num-gpus=0", f"--temp-dir={found.directory}", f"--include-dashboard={has_dashboard}"),
        f"--dashboard-port={found.dashboard_port}",
    )
    with ray_start(*arguments):
        wait_until(lambda: list(found.directory.glob("session_latest/sockets/raylet*")), 120)  # after the head answers
        yield found
    shutil.rmtree(found.directory, ignore_errors=True)


def node(head: Head, num_gpus: int) -> object:
    return ray_start(f"--address={head.address}", "--num-cpus=2", f"--num-gpus={num_gpus}")


def test_a_wrong_token_is_one_line_that_names_what_to_export(head: Head, tmp_path: Path) -> None:
    code = (
        "from pipeline.config.loading import compose\nfrom pipeline.generate.connection import connect, load\nload()\n"
    )
    code += f"connect(compose(['conf=demo', 'cluster.address={head.address}']))"
    environment = os.environ | TOKEN | {"RAY_AUTH_TOKEN": "another", "HOME": str(tmp_path)}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=200, check=False)
    last = done.stderr.splitlines()[-1]
    assert f"ConfigError: cluster.address='{head.address}': the cluster requires another token than the one" in last
    assert "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=<" in last


@pytest.mark.slow
def test_a_run_without_the_token_ends_with_exit_code_2(head: Head, tmp_path: Path) -> None:
    code, _, err = Started({}, f"output_dir={tmp_path}", "limit=1", f"cluster.address={head.address}").end(200)
    assert code == 2
    assert err.count("\n") == 1
    assert "the cluster requires a token, and RAY_AUTH_MODE is not set here: export RAY_AUTH_MODE=token" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_ends_at_a_signal(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    num_drivers = head.num_drivers
    overrides = (*VLLM, f"output_dir={tmp_path}", "run_id=one", "limit=1", "cluster.wait_s=300")
    job = Started({}, *overrides, f"cluster.address={head.address}")
    wait_until(lambda: head.num_drivers > num_drivers, 200)
    time.sleep(5)
    job.process.send_signal(number)
    code, out, err = job.end(100)
    assert "waiting for 1 GPU: 1 node, 0 GPUs, 0 of 300 s" in out
    assert (code, err.count("\n"), job.survivors()) == (130, 1, []), err


@pytest.mark.slow
def test_a_run_waits_for_gpus_that_come_later_and_uses_them_all(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    num_drivers = head.num_drivers
    overrides = (*VLLM, f"output_dir={tmp_path}", "run_id=one", "limit=20", "cluster.wait_s=300")
    job = Started({"seconds": 0.3}, *overrides, f"cluster.address={head.address}")
    try:
        wait_until(lambda: head.num_drivers > num_drivers, 200)
        time.sleep(20)
        with node(head, 2):  # type: ignore[attr-defined]
            code, out, err = job.end(400)
    finally:
        job.kill()
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith(("cluster: ", "waiting "))]
    assert lines[0].startswith("cluster: Ray cluster at ")
    assert lines[0].endswith(": 1 node, 0 GPUs")
    assert lines[1] == "waiting for 1 GPU: 1 node, 0 GPUs, 0 of 300 s"
    manifest = json.loads((tmp_path / "run=one/manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert sorted(info["gpus"] for info in manifest["engine"].values()) == ["0", "1"]


def job(head: Head, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `ray job ...` in a directory."""
    environment = os.environ | TOKEN | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{head.dashboard_port}"}
    line = [*RAY, "job", *arguments]
    return subprocess.run(
        line, cwd=directory, env=environment, capture_output=True, text=True, timeout=400, check=False
    )


def answers(head: Head) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{head.dashboard_port}/api/version")
    request.add_header("Authorization", f"Bearer {TOKEN['RAY_AUTH_TOKEN']}")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def takes_jobs(head: Head, directory: Path) -> bool:
    """Return whether a job can be submitted: the agent that starts it comes after the dashboard answers."""
    return answers(head) and job(head, "submit", "--no-wait", "--", "true", directory=directory).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("aiohttp_cors"), reason="Ray jobs need ray[default]")
def test_a_ray_job_that_was_killed_resumes_when_the_same_words_are_submitted_again(head: Head, tmp_path: Path) -> None:
    empty, run = tmp_path / "empty", tmp_path / "run=one"
    empty.mkdir()
    wait_until(lambda: takes_jobs(head, empty), 120)
    # `local`: a run that is made again elsewhere has recorded it.
    overrides = ("conf=demo", *ENDPOINT, *VLLM, f"output_dir={tmp_path}", "run_id=one", "cluster.address=local")

    def words(seconds: float) -> list[str]:
        return [sys.executable, str(ROOT / "tests/scripted_run.py"), json.dumps({"seconds": seconds}), *overrides]

    with node(head, 2):  # type: ignore[attr-defined]
        assert job(head, "submit", "--submission-id=a", "--no-wait", "--", *words(1.0), directory=empty).returncode == 0
        wait_until(lambda: sum(path.stat().st_size > 0 for path in run.glob("journal/*.jsonl")) == 2, 200)
        kill_drivers(tmp_path)
        wait_until(lambda: "failed" in job(head, "status", "a", directory=empty).stdout.lower(), 60)
        done = job(head, "submit", "--submission-id=b", "--", *words(0.1), directory=empty)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 214 rows are there already" in done.stdout
    assert "warning: job-stop-time: run.grace_s=60: `ray job stop` kills this job after 3 s" in done.stdout
    assert "succeeded" in done.stdout + done.stderr
    rows = completions(ArtifactStore.open(str(run)))
    keys = {(row["task"], row["split"], row["id"]) for row in rows}
    assert len(rows) == len(keys) == 214


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("aiohttp_cors"), reason="Ray jobs need ray[default]")
def test_a_night_does_what_is_missing_after_a_broken_model_and_after_a_kill(head: Head, tmp_path: Path) -> None:
    empty, broken, output = tmp_path / "empty", tmp_path / "broken", tmp_path / "output"
    empty.mkdir()
    broken.mkdir()
    demo = ("conf=demo", *ENDPOINT, *VLLM, "limit=10")
    runs = {"first": shlex.join([*demo, f"model.path={broken}"]), "second": shlex.join(demo)}
    (tmp_path / "night.yaml").write_text(json.dumps({"runs": runs}))

    def words(night: str, seconds: float) -> list[str]:
        program = [sys.executable, str(ROOT / "tests/scripted_run.py"), json.dumps({"seconds": seconds})]
        arguments = [f"night={night}", f"runs={tmp_path}/night.yaml", f"output_dir={output}", "cluster.address=local"]
        how = json.dumps({"program": program, "is_quick": False})
        return [sys.executable, str(ROOT / "tests/night_of.py"), how, *arguments]

    def submit(night: str, name: str, seconds: float, *arguments: str) -> subprocess.CompletedProcess[str]:
        return job(head, "submit", f"--submission-id={name}", *arguments, "--", *words(night, seconds), directory=empty)

    def of_each(what: str, night: str = "n") -> list[Any]:
        return [run[what] for run in json.loads((output / f"night={night}.json").read_text())["runs"]]

    with node(head, 2):  # type: ignore[attr-defined]
        wait_until(lambda: takes_jobs(head, empty), 120)
        for name, before in (("broken-1", False), ("broken-2", True)):
            done = submit("n", name, 0.1)
            assert done.returncode == 1, done.stdout
            assert "exit code 2" in done.stdout + done.stderr
            assert "error: night n: first could not finish: the same command with night=n does what is missing" in (
                done.stdout
            )
            assert (of_each("status"), of_each("exit_code")) == (["failed", "complete"], [2, 0])
            assert of_each("was_complete") == [False, before]
            assert str(broken) in of_each("reason")[0]
        shutil.copytree("data/demo/model", broken, dirs_exist_ok=True)
        run = output / "run=m-first"
        assert submit("m", "killed", 1.0, "--no-wait").returncode == 0
        wait_until(lambda: sum(path.stat().st_size > 0 for path in run.glob("journal/*.jsonl")) == 2, 200)
        kill_drivers(output)
        wait_until(lambda: "failed" in job(head, "status", "killed", directory=empty).stdout.lower(), 60)
        done = submit("m", "resumed", 0.1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 60 rows are there already" in done.stdout
    assert (of_each("status", "m"), of_each("was_complete", "m")) == (["complete"] * 2, [False] * 2)
    assert sorted(path.name for path in output.glob("run=m*")) == ["run=m-first", "run=m-second"]
    rows = completions(ArtifactStore.open(str(run)))
    assert len(rows) == len({(row["task"], row["split"], row["id"]) for row in rows}) == 60


def kill_drivers(output: Path) -> None:
    """Kill the processes whose command line names this output_dir."""
    mark = f"output_dir={output}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if mark in _read(path):
            with suppress(ProcessLookupError):
                os.kill(int(path.parent.name), signal.SIGKILL)


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""
