"""2,000 rows at a server that fails in every way at once: each failure is its row's, and only these are asked again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import ROOT, completions
from faults.mixed_server import MixedServer, mixed_server, mode_of, text_of

from pipeline.generate.failures import normalized
from pipeline.storage.artifacts import ArtifactStore

NUM_ROWS = int(os.environ.get("MIXED_ROWS", "2000"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Session:
    """A session of the run: its exit code, output, completions by id, and requests of each row."""

    exit_code: int
    seconds: float
    output: str
    rows: list[dict[str, Any]]
    requests: Counter[int]


def session(directory: Path, server: MixedServer, *overrides: str) -> Session:
    line = [sys.executable, "-m", "pipeline.run", f"conf={directory / 'mixed.yaml'}", f"output_dir={directory}"]
    line += [f"engine.endpoint.base_url={server.url}", "run_id=mixed", *overrides]
    server.requests.clear()
    begin = time.monotonic()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    seconds = time.monotonic() - begin
    rows = completions(ArtifactStore.open(str(directory / "run=mixed")))
    output = done.stdout + done.stderr
    return Session(done.returncode, seconds, output, rows, Counter(server.requests))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Session]]:
    """The run at the server that fails, and the same run once the server is fixed."""
    directory = tmp_path_factory.mktemp("mixed")
    rows = [
        {"instruction": "{q}", "inputs": {"q": str(number)}, "outputs": "A", "meta": {"id": number}}
        for number in range(NUM_ROWS)
    ]
    (directory / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "mixed.yaml").write_text(
        f"tasks: {{agro_bench: {{dataset: {directory / 'test.jsonl'}, domain: agriculture}}}}\n"
        "splits: [test]\ngeneration: {max_gen_toks: 100}\n"
        "engine: {kind: endpoint, endpoint: {timeout_s: 6, max_retries: 2, concurrency: 64}}\n"
    )
    with mixed_server() as server:
        broken = session(directory, server)
        server.fixed = True
        yield broken, session(directory, server, "run.retry_failed=true")


def failed(session: Session) -> set[int]:
    return {row["id"] for row in session.rows if row["error"] is not None}


def test_every_row_has_the_outcome_of_its_mode(sessions: tuple[Session, Session]) -> None:
    broken, _ = sessions
    print(f"exit code {broken.exit_code}, {broken.seconds:.0f} s, {sum(broken.requests.values()):,} requests")
    reasons = Counter(normalized(row["error"]) for row in broken.rows if row["error"] is not None)
    print("\n".join(f"{count:5}  {reason}" for reason, count in reasons.most_common()))
    assert broken.exit_code == 4, broken.output[-3_000:]
    assert [row["id"] for row in broken.rows] == list(range(NUM_ROWS))
    wrong = defaultdict(list)
    for row in broken.rows:
        mode = mode_of(row["id"])
        if mode.reason is None:
            expected = text_of(row["id"]) if mode.content == "" else mode.content
            good = row["error"] is None and row["content"] == expected
        else:
            good = row["error"] is not None and mode.reason in row["error"]
        if not good:
            wrong[mode.name].append((row["error"], row["content"]))
    assert not wrong
    assert Counter(mode_of(number).reason is not None for number in range(NUM_ROWS))[True] == len(failed(broken))
    assert "Traceback" not in broken.output


def test_a_row_that_fails_for_good_is_asked_once_and_one_that_may_pass_at_most_three_times(
    sessions: tuple[Session, Session],
) -> None:
    broken, _ = sessions
    for number, count in broken.requests.items():
        passing = mode_of(number).name.startswith(("429", "50", "529", "closed", "chunk", "body cut", "no HTTP"))
        assert count == 1 or (passing and count <= 3), mode_of(number).name


def test_once_the_server_is_fixed_only_the_failed_rows_are_asked_and_each_once(
    sessions: tuple[Session, Session],
) -> None:
    broken, fixed = sessions
    print(f"exit code {fixed.exit_code}, {fixed.seconds:.0f} s, {sum(fixed.requests.values()):,} requests")
    assert fixed.exit_code == 0, fixed.output[-3_000:]
    assert fixed.requests == Counter(failed(broken))
    assert [row["id"] for row in fixed.rows] == list(range(NUM_ROWS))
    before = {row["id"]: row["content"] for row in broken.rows}
    for row in fixed.rows:
        assert row["error"] is None
        assert row["content"] == (text_of(row["id"]) if row["id"] in failed(broken) else before[row["id"]])
