"""Small records and runs that the tests are about."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.config.loading import compose
from pipeline.config.loading import dump as compose_dump
from pipeline.config.schema import Config
from pipeline.errors import PipelineError
from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, SAMPLE_SCHEMA, Prompt, to_table
from pipeline.runs.manifest import EngineInfo, load, write_manifest
from pipeline.storage.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parent.parent

ENDPOINT = ("engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1", "model.path=null")
"""Words of a run that needs neither a model nor a GPU; a scripted engine takes the endpoint's place."""


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a module as a user does, from the project's directory; its exit code is the caller's to check."""
    line = [sys.executable, "-m", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def make_prompt(number: int, *, question: str = "Что?", error: str | None = None, gold: str | None = "A") -> Prompt:
    """Return a prompt of agro_bench's test split as an endpoint would be asked it."""
    messages = json.dumps([{"role": "user", "content": f"{question} {number}"}], ensure_ascii=False)
    return Prompt(
        task="agro_bench",
        split="test",
        id=number,
        categories={"subject": "soil"},
        doc=json.dumps({"instruction": "{question}", "inputs": {"question": question}, "outputs": gold or ""}),
        messages=messages,
        prompt=None,
        prompt_sha256=hashlib.sha256(messages.encode()).hexdigest(),
        prompt_token_ids=None,
        num_prompt_tokens=None,
        gold=gold,
        error=error,
    )


def publish_prompts(run: ArtifactStore, prompts: list[Prompt]) -> None:
    """Write the prompts stage of a run."""
    run.create()
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parts("task=agro_bench/split=test", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)], 1_000)


def record_manifest(run: ArtifactStore, status: str, /, **content: Any) -> None:
    """Write a run's manifest with this content, as manifest.json has it."""
    write_manifest(run, load(content | {"status": status}))


def publish_past_run(
    output: ArtifactStore, run_id: str, tokens: dict[str, list[int | None]], *words: str
) -> ArtifactStore:
    """Write a complete run whose samples took these tokens, by prompt_sha256; `words` are those of `settings`.

    A prompt of None tokens has an error. All are of agro_bench's test split.
    """
    run = output.child(f"run={run_id}")
    run.create()
    run.write_text("config.yaml", compose_dump(settings(*words)))
    rows = [
        {
            "id": number,
            "repeat": repeat,
            "categories": [],
            "messages": "[]",
            "prompt_sha256": prompt,
            "finish_reason": "stop" if num_tokens is not None else "error",
            "num_output_tokens": num_tokens,
            "error": None if num_tokens is not None else "too long",
            "attempts": 1,
        }
        for number, (prompt, repeats) in enumerate(tokens.items())
        for repeat, num_tokens in enumerate(repeats)
    ]
    with run.publish("samples", SAMPLE_SCHEMA) as store:
        table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
        store.write_parts("task=agro_bench/split=test", SAMPLE_SCHEMA, [table], 1_000)
    record_manifest(run, "complete", ended_at=run_id)
    return run


def settings(*words: str) -> Config:
    """Return the demo's configuration with an endpoint that nobody asks; later words win."""
    return compose(["conf=demo", *ENDPOINT, *words])


class Counting:
    """A progress that counts; nobody interrupts it."""

    count = 0

    def __init__(self) -> None:
        self.num_rows = self.num_left = self.num_done = self.num_failed = self.num_tokens = 0

    def end_now(self, reason: PipelineError) -> None:
        raise AssertionError(f"nobody interrupts: {reason}")

    def begin(self, num_rows: int, num_left: int, order: str) -> None:
        self.num_rows, self.num_left, self.order = num_rows, num_left, order

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        self.num_done += num_rows
        self.num_failed += num_failed
        self.num_tokens += num_output_tokens


def completions(run: ArtifactStore) -> list[dict[str, Any]]:
    """Return the rows of a run's completions stage, by id and repeat."""
    stage = run.artifact("completions", COMPLETION_SCHEMA)
    assert stage is not None
    table = stage.dataset().to_table().sort_by([("id", "ascending"), ("repeat", "ascending")])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def engine_infos(run: ArtifactStore) -> list[EngineInfo]:
    """Return what each replica of a run that is under way last said of its engine."""
    return list(journal.read_engine_info(run.child(journal.DIRECTORY)).values())


class Started:
    """The main job as a process of its own, with the engine that `ScriptedFactory(**script)` makes."""

    def __init__(self, script: dict[str, str | float], *words: str) -> None:
        # A daemon leaves its session and its parent, but not its environment.
        self._mark = f"SCRIPTED_RUN={uuid.uuid4().hex}"
        line = [sys.executable, str(ROOT / "tests/scripted_run.py"), json.dumps(script), "conf=demo", *ENDPOINT, *words]
        environment = os.environ | dict([self._mark.split("=")])
        self.process = subprocess.Popen(
            line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self, within_s: float) -> tuple[int, str, str]:
        """Return the exit code, the standard output and the standard error; it is killed when it takes longer."""
        try:
            out, err = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Kill it and all that came of it, whatever state it is in."""
        self.process.kill()
        self.process.communicate()
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def survivors(self, within_s: float = 5.0) -> list[str]:
        """Return the command lines of what is still running `within_s` after its end."""
        end = time.monotonic() + within_s
        while (pids := self._pids()) and time.monotonic() < end:
            time.sleep(0.1)
        return [_command_line(pid) for pid in pids]

    def _pids(self) -> list[int]:
        found = []
        for store in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended while we looked
                environment = (store / "environ").read_bytes().split(b"\0")  # empty for a zombie
                if self._mark.encode() in environment:
                    found.append(int(store.name))
        return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def wait_until(happened: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait for something to be true."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve the S3 API on loopback from memory; give the words of a URI's query that lead to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        fs = pafs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        fs.create_dir("runs")
        yield f"endpoint_override={host}%3A{port}&scheme=http"
    finally:
        server.stop()
