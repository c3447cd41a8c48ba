"""How fast is the pipeline, beside plain vLLM and the other ways of driving it: `make bench`.

    PYTHONPATH=tests .venv/bin/python -m bench                              # all of it, about an hour on two cores
    PYTHONPATH=tests .venv/bin/python -m bench rounds=1 sizes=demo num_questions=200 only=plain,pipeline

In one run, round by round: each way warms up and generates the same questions to the same lengths with the same engine
arguments; each round begins with another way. Out: `outputs/bench/bench.{json,md,svg}`, anew after each pass. What an
engine that lives through the rounds does while others are measured is nothing: its processes are stopped (an idle vLLM
on a CPU still takes a tenth of a core).
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
"""Processes that live through all rounds of a size. Ray's do not: its parts would not survive being stopped."""


class Child:
    """A way's process and the processes that it has started."""

    def __init__(self, name: str, bench: Bench, size: Size, words: list[str]) -> None:
        log = bench.directory / size.name / f"{name}.log"
        line = [sys.executable, "-m", "bench.child", name, size.name, *words]
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment["RAY_worker_niceness"] = "0"  # the pipeline's choice: ray.data.llm is given it as well
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
        """Measure one round."""
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
        """Stop all its processes, so that they take nothing from the others."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Let it end in good order, or kill what is left."""
        assert self._process.stdin is not None
        self.wake()
        self._process.stdin.close()
        try:
            self._process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def main(words: list[str]) -> None:
    bench = parse(words)
    bench.directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    make_models(bench.directory / "models")
    make_questions(bench)
    about = {"words": words, "machine": _machine(), **_versions()}
    found: list[Measurement] = []
    for size in bench.sizes:
        with closing(_measure(bench, size, words)) as passes:  # its engines end with it, whatever fails here
            for each in passes:
                found.append(each)
                _write(bench, found, {"date": environment.now(), "took_s": round(time.monotonic() - began), **about})
    print(f"{(bench.directory / 'bench.md').read_text(encoding='utf-8')}\n{(time.monotonic() - began) / 60:.0f} min")
    print(f"{bench.directory}/bench.json, bench.md, bench.svg")


def _write(bench: Bench, found: list[Measurement], about: dict[str, Any]) -> None:
    """Write what has been measured up to now: an hour is long, and its last pass may fail."""
    from bench.plot import plot

    summaries = summarize(found)
    (bench.directory / "bench.json").write_text(json.dumps(as_json(found, about), indent=1), encoding="utf-8")
    text = "\n".join([table(summaries), "", *(f"- {each}" for each in targets(summaries)), ""])
    (bench.directory / "bench.md").write_text(text, encoding="utf-8")
    plot(summaries, bench.directory / "bench.svg")


def rotated(ways: tuple[str, ...], number: int, rounds: int) -> tuple[str, ...]:
    """Return the ways in the order of a round: over all rounds each is early, in the middle and late."""
    first = number * len(ways) // rounds
    return ways[first:] + ways[:first]


def _measure(bench: Bench, size: Size, words: list[str]) -> Generator[Measurement]:
    """Run all rounds of one size."""
    lasting: dict[str, Child] = {}
    with ExitStack() as ends:
        for number in range(bench.rounds):
            directory = bench.directory / size.name / f"round-{number}"
            for way in rotated(bench.ways, number, bench.rounds):
                with _child(way, lasting, ends, bench, size, words) as child:
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
    way: str, lasting: dict[str, Child], ends: ExitStack, bench: Bench, size: Size, words: list[str]
) -> Iterator[Child]:
    """Give the way's process: one that sleeps between its rounds, or one of this round alone."""
    name = "server" if way.startswith("server") else way
    if name not in LASTING:
        child = Child(way, bench, size, words)
        try:
            yield child
        finally:
            child.end()
        return
    if name not in lasting:
        lasting[name] = Child(way, bench, size, words)
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
