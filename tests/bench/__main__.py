"""Measures the speed of the pipeline next to plain vLLM and other ways of driving it: `make bench`.

    PYTHONPATH=tests .venv/bin/python -m bench                              # all of it, about an hour on two cores
    PYTHONPATH=tests .venv/bin/python -m bench rounds=1 sizes=demo num_questions=200 only=plain,pipeline

In each round every way warms up and answers the same questions, with the same output lengths and engine arguments; each
round begins with another way. Out: `outputs/bench/bench.{json,md,svg}`, rewritten after each pass. An engine that lasts
over several rounds is stopped (SIGSTOP) while others are measured: an idle vLLM on a CPU takes a tenth of a core.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from bench.models import make_models
from bench.questions import make_questions
from bench.results import Measurement, as_json, summarize, table, targets
from bench.settings import ROOT, WAYS, Bench, Size, parse
from bench.steps import metered

from pipeline.runs import environment
from pipeline.runs.manifest import dump

LASTING = ("plain", "server", "ceiling")
"""Ways whose processes last over all rounds of a size. Ray's do not: its processes would not survive SIGSTOP."""


class Child:
    """A way's process and its descendants."""

    def __init__(self, name: str, bench: Bench, size: Size, arguments: list[str]) -> None:
        log = bench.directory / size.name / f"{name}.log"
        line = [sys.executable, "-m", "bench.child", name, size.name, *arguments]
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["RAY_worker_niceness"] = "0"  # as in the pipeline, and for ray.data.llm too
        environment = metered(environment, bench.directory / size.name / "steps" / name)
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                line,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self.engine_start_s: float | None = self._answer()["engine_start_s"]

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        """Measure one round and return the child's answer.

        Raises:
            SystemExit: The process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{way} {directory}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process has ended; its log is {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def sleep(self) -> None:
        """Stop all its processes, so that they use no CPU while others are measured."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Continue its processes."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """End the process in an orderly way, or kill it after 90 s."""
        assert self._process.stdin is not None
        self.wake()
        self._process.stdin.close()
        try:
            self._process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def main(arguments: list[str]) -> None:
    bench = parse(arguments)
    bench.directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    make_models(bench.directory / "models")
    make_questions(bench)
    about = {"words": arguments, "machine": _machine(), **_versions()}
    found: list[Measurement] = []
    for size in bench.sizes:
        with closing(_measure(bench, size, arguments)) as passes:  # closing it ends the engines, also after an error
            for each in passes:
                found.append(each)
                _write(bench, found, {"date": environment.now(), "took_s": round(time.monotonic() - began), **about})
    print(f"{(bench.directory / 'bench.md').read_text(encoding='utf-8')}\n{(time.monotonic() - began) / 60:.0f} min")
    print(f"{bench.directory}/bench.json, bench.md, bench.svg")


def _write(bench: Bench, found: list[Measurement], about: dict[str, Any]) -> None:
    """Write the results so far: the bench takes an hour, and a later pass may fail."""
    from bench.plot import plot

    summaries = summarize(found)
    (bench.directory / "bench.json").write_text(json.dumps(as_json(found, about), indent=1), encoding="utf-8")
    text = "\n".join([table(summaries), "", *(f"- {each}" for each in targets(summaries)), ""])
    (bench.directory / "bench.md").write_text(text, encoding="utf-8")
    plot(summaries, bench.directory / "bench.svg")


def rotated(ways: tuple[str, ...], number: int, rounds: int) -> tuple[str, ...]:
    """Return the ways of a round, rotated: over all rounds each way is early, in the middle and late."""
    first = number * len(ways) // rounds
    return ways[first:] + ways[:first]


def _measure(bench: Bench, size: Size, arguments: list[str]) -> Generator[Measurement]:
    """Run all rounds of one size and yield a measurement per round and way."""
    lasting: dict[str, Child] = {}
    with ExitStack() as ends:
        for number in range(bench.rounds):
            directory = bench.directory / size.name / f"round-{number}"
            for way in rotated(bench.ways, number, bench.rounds):
                with _child(way, lasting, ends, bench, size, arguments) as child:
                    answer = child.run(way, directory)
                start_s = answer.get("engine_start_s", child.engine_start_s)
                names = ("seconds", "num_rows", "num_tokens")
                values = {name: answer[name] for name in names}
                values |= {name: answer[name] for name in ("num_steps", "steps_s", "steps_cpu_s")}
                values |= {name: answer.get(name) for name in ("engine_end_s", "after_last_row_s")}
                found = Measurement(size=size.name, way=way, round=number, engine_start_s=start_s, **values)
                at = f"{size.name} {number + 1}/{bench.rounds} {WAYS[way]}"
                print(f"{at}: {found.tokens_per_s:,.0f} tokens/s", flush=True)
                yield found


@contextmanager
def _child(
    way: str, lasting: dict[str, Child], ends: ExitStack, bench: Bench, size: Size, arguments: list[str]
) -> Iterator[Child]:
    """Yield the way's process: a lasting one, stopped between its rounds, or a new one for this round."""
    name = "server" if way.startswith("server") else way
    if name not in LASTING:
        child = Child(way, bench, size, arguments)
        try:
            yield child
        finally:
            child.end()
        return
    if name not in lasting:
        lasting[name] = Child(way, bench, size, arguments)
        ends.callback(lasting[name].end)
    lasting[name].wake()
    yield lasting[name]
    lasting[name].sleep()


def _machine() -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {"cpu": model.partition(": ")[2] or platform.processor(), "cores": len(os.sched_getaffinity(0))}


def _versions() -> dict[str, Any]:
    return {"versions": environment.versions(), "codebase": dump(environment.codebase())}


if __name__ == "__main__":
    main(sys.argv[1:])
