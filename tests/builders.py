"""Builds small records and runs, and starts commands and servers, for the tests."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
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
from pipeline.records import (
    COMPLETION_SCHEMA,
    PROMPT_SCHEMA,
    SAMPLE_SCHEMA,
    Completion,
    Prompt,
    ReplicaEvent,
    ReplicaState,
    to_table,
)
from pipeline.runs.manifest import EngineInfo, load, write_manifest
from pipeline.storage.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parent.parent

ENDPOINT = ("engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1", "model.path=null")
"""Overrides for a run that needs neither a model nor a GPU; a scripted engine replaces the endpoint."""


def printed_template() -> str | None:
    """Return the chat template printed in the submission form, or None where the form is not beside the project.

    It is the only line that begins and ends with a tag. The form prints the same template in both languages.
    """
    texts = [file.read_text(encoding="utf-8") for file in sorted((ROOT.parent / "shared" / "seeds").glob("*.txt"))]
    lines = {line for text in texts for line in text.splitlines() if line.startswith("{%") and line.endswith("%}")}
    assert len(lines) == (1 if texts else 0)
    return lines.pop() if lines else None


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with these arguments in the project's directory; the caller checks the exit code."""
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def make_prompt(number: int, *, question: str = "Что?", error: str | None = None, gold: str | None = "A") -> Prompt:
    """Return a prompt of agro_bench's test split as it is prepared for an endpoint."""
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


def publish_prompts(run: ArtifactStore, prompts: list[Prompt], metadata: dict[str, str] | None = None) -> None:
    """Publish the prompts artifact of a run."""
    run.create()
    with run.publish("prompts", PROMPT_SCHEMA, metadata) as store:
        store.write_parts("task=agro_bench/split=test", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)], 1_000)


def record_manifest(run: ArtifactStore, status: str, /, **content: Any) -> None:
    """Write a run's manifest with this content, keyed as in manifest.json."""
    write_manifest(run, load(content | {"status": status}))


def publish_past_run(
    output: ArtifactStore, run_id: str, tokens: dict[str, list[int | None]], *overrides: str
) -> ArtifactStore:
    """Write a complete run whose samples have these numbers of output tokens, by prompt_sha256 and repeat.

    A sample with None tokens has an error. All are in agro_bench's test split. `overrides` are those of `settings`.
    """
    run = output.child(f"run={run_id}")
    run.create()
    run.write_text("config.yaml", compose_dump(settings(*overrides)))
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


@functools.cache
def settings(*overrides: str) -> Config:
    """Return the demo's configuration with an endpoint that is never called; later overrides win."""
    return compose(["conf=demo", *ENDPOINT, *overrides])


class Counting:
    """A progress display that only counts, and a signal handler that is never interrupted."""

    count = 0

    def __init__(self) -> None:
        self.num_rows = self.num_left = self.num_done = self.num_failed = self.num_tokens = 0
        self.expected_tokens_done = 0.0
        self.events: list[ReplicaEvent] = []
        self.num_ready = 0

    def end_now(self, reason: PipelineError) -> None:
        raise AssertionError(f"nobody interrupts: {reason}")

    @property
    def failures(self) -> list[str]:
        """What has been shown of crashes, restarts and starts that failed."""
        return [str(event.line) for event in self.events if event.kind in ("restart", "start_failed")]

    def begin(self, num_rows: int, num_left: int, order: str, expected_tokens: float | None) -> None:
        self.num_rows, self.num_left, self.order = num_rows, num_left, order
        self.expected_tokens = expected_tokens

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        self.num_done += num_rows
        self.num_failed += num_failed
        self.num_tokens += num_output_tokens

        self.expected_tokens_done += expected_tokens or 0.0

    def update(self, states: Sequence[ReplicaState], num_replicas: int) -> None:
        self.num_replicas = num_replicas
        self.num_ready = max(self.num_ready, sum(state.phase is None for state in states))

    def report(self, event: ReplicaEvent) -> None:
        self.events.append(event)

    def stop(self) -> None:
        self.has_stopped = True


def completions(run: ArtifactStore) -> list[dict[str, Any]]:
    """Return the rows of a run's completions, sorted by id and repeat."""
    artifact = run.artifact("completions", COMPLETION_SCHEMA)
    assert artifact is not None
    table = artifact.dataset().to_table().sort_by([("id", "ascending"), ("repeat", "ascending")])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def completed(number: int, text: str = "A", repeat: int = 0, prompt_sha256: str = "00") -> Completion:
    """Return the completion of a question of agro_bench's test split."""
    return Completion(
        task="agro_bench",
        split="test",
        id=number,
        repeat=repeat,
        prompt_sha256=prompt_sha256,
        completion=text,
        reasoning=None,
        content=text,
        finish_reason="stop",
        num_prompt_tokens=1,
        num_output_tokens=1,
        error=None,
        attempts=1,
        replica="r",
        queued_s=0.0,
        generated_s=0.0,
    )


def engine_infos(run: ArtifactStore) -> list[EngineInfo]:
    """Return the engine info that each replica of an unfinished run recorded last."""
    return list(journal.read_engine_info(run.child(journal.DIRECTORY)).values())


class Started:
    """A run in a subprocess, with the engine that `ScriptedFactory(**script)` makes."""

    def __init__(self, script: dict[str, str | float], *overrides: str) -> None:
        # A daemon leaves its session and its parent, but keeps its environment.
        self._mark = f"SCRIPTED_RUN={uuid.uuid4().hex}"
        line = [sys.executable, str(ROOT / "tests/scripted_run.py"), json.dumps(script), "conf=demo", *ENDPOINT]
        line += overrides
        environment = os.environ | dict([self._mark.split("=")])
        self.process = subprocess.Popen(
            line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self, within_s: float) -> tuple[int, str, str]:
        """Return the exit code, the standard output and the standard error; kill the run after `within_s` seconds."""
        try:
            out, err = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Kill the process and all its descendants, in whatever state they are."""
        self.process.kill()
        self.process.communicate()
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def survivors(self, within_s: float = 5.0) -> list[str]:
        """Return the command lines of descendants that are still running `within_s` seconds after the call."""
        end = time.monotonic() + within_s
        while (pids := self._pids()) and time.monotonic() < end:
            time.sleep(0.1)
        return [_command_line(pid) for pid in pids]

    def _pids(self) -> list[int]:
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process ended meanwhile
                environment = (directory / "environ").read_bytes().split(b"\0")  # empty for a zombie
                if self._mark.encode() in environment:
                    found.append(int(directory.name))
        return found


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def wait_until(happened: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until `happened()` is true; fail after `within_s` seconds."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def s3_server(*, signed_only: bool = False) -> Iterator[str]:
    """Serve the S3 API on loopback from memory; yield the query of a URI that selects this server.

    With `signed_only` requests without a signature are refused, as S3 does; no signature is checked.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    if signed_only:
        server._server.app = _refusing_unsigned(server._server.app)
    try:
        host, port = server.get_host_and_port()
        fs = pafs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        fs.create_dir("runs")
        yield f"endpoint_override={host}%3A{port}&scheme=http"
    finally:
        server.stop()


def _refusing_unsigned(app: Any) -> Any:
    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_AUTHORIZATION" in environ:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]

    return answer
